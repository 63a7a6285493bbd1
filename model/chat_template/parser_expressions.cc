// Expressions: precedence as in jinja2, from the conditional down to primaries and their suffixes.
#include <array>

#include "model/chat_template/concat.h"
#include "model/chat_template/token_stream.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// Longer chains (a + b + …, a.b.c…, a | f | g …) are refused: their trees are as deep.
constexpr int kMaxChain = 1000;
constexpr int kMaxSuffixes = 60;

ExprPtr Make(ExprType type, int line) {
  auto expr = std::make_unique<Expr>();
  expr->type = type;
  expr->line = line;
  return expr;
}

ExprPtr MakeConstant(Value value, int line) {
  ExprPtr expr = Make(ExprType::kConstant, line);
  expr->constant = std::move(value);
  return expr;
}

Value ConstantStr(std::string bytes) {
  auto object = std::make_shared<StrObject>();
  object->num_code_points = CountCodePoints(bytes);
  object->text.bytes = std::move(bytes);
  return Value(Kind::kStr, std::move(object));
}

absl::StatusOr<ExprPtr> ParseOr(TokenStream& s);
absl::StatusOr<ExprPtr> ParseUnary(TokenStream& s, bool filters);

struct BinaryLevel {
  std::array<std::string_view, 4> ops;
  std::array<BinaryOp, 4> codes;
  size_t count;
};
// Loosest first; ~ stands between the first two levels and is handled by its own function.
constexpr BinaryLevel kAdditive = {{"+", "-"}, {BinaryOp::kAdd, BinaryOp::kSub}, 2};
constexpr BinaryLevel kMultiplicative = {
    {"*", "/", "//", "%"},
    {BinaryOp::kMul, BinaryOp::kDiv, BinaryOp::kFloorDiv, BinaryOp::kMod},
    4};
constexpr BinaryLevel kPower = {{"**"}, {BinaryOp::kPow}, 1};

template <typename Operand>
absl::StatusOr<ExprPtr> ParseBinary(TokenStream& s, const BinaryLevel& level, Operand operand) {
  ASSIGN_OR_RETURN(ExprPtr left, operand(s));
  for (int chain = 0; s.Is(TokenType::kOperator); ++chain) {
    size_t op = 0;
    while (op < level.count && s.current().text != level.ops[op]) ++op;
    if (op == level.count) break;
    if (chain > kMaxChain) return s.Fail("the expression is too long");
    ExprPtr node = Make(ExprType::kBinary, s.line());
    node->binary = level.codes[op];
    s.Next();
    node->a = std::move(left);
    ASSIGN_OR_RETURN(node->b, operand(s));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> ParsePower(TokenStream& s) {
  return ParseBinary(s, kPower, [](TokenStream& t) { return ParseUnary(t, true); });
}

absl::StatusOr<ExprPtr> ParseProduct(TokenStream& s) {
  return ParseBinary(s, kMultiplicative, ParsePower);
}

absl::StatusOr<ExprPtr> ParseConcat(TokenStream& s) {
  ASSIGN_OR_RETURN(ExprPtr left, ParseProduct(s));
  if (!s.IsOp("~")) return left;
  ExprPtr node = Make(ExprType::kConcat, s.line());
  node->items.push_back(std::move(left));
  while (s.SkipOp("~")) {
    ASSIGN_OR_RETURN(ExprPtr item, ParseProduct(s));
    node->items.push_back(std::move(item));
  }
  return node;
}

absl::StatusOr<ExprPtr> ParseSum(TokenStream& s) { return ParseBinary(s, kAdditive, ParseConcat); }

bool SkipCompare(TokenStream& s, CompareOp* op) {
  static constexpr std::array<std::pair<std::string_view, CompareOp>, 6> kOps = {
      {{"==", CompareOp::kEq},
       {"!=", CompareOp::kNe},
       {"<", CompareOp::kLt},
       {"<=", CompareOp::kLe},
       {">", CompareOp::kGt},
       {">=", CompareOp::kGe}}};
  for (const auto& [text, code] : kOps) {
    if (s.SkipOp(text)) {
      *op = code;
      return true;
    }
  }
  if (s.SkipName("in")) {
    *op = CompareOp::kIn;
    return true;
  }
  if (s.IsName("not") && s.Peek().type == TokenType::kName && s.Peek().text == "in") {
    s.Next();
    s.Next();
    *op = CompareOp::kNotIn;
    return true;
  }
  return false;
}

absl::StatusOr<ExprPtr> ParseCompare(TokenStream& s) {
  ASSIGN_OR_RETURN(ExprPtr left, ParseSum(s));
  ExprPtr node;
  for (CompareOp op; SkipCompare(s, &op);) {
    if (node == nullptr) {
      node = Make(ExprType::kCompare, s.line());
      node->items.push_back(std::move(left));
    }
    node->compares.push_back(op);
    ASSIGN_OR_RETURN(ExprPtr item, ParseSum(s));
    node->items.push_back(std::move(item));
  }
  return node != nullptr ? std::move(node) : std::move(left);
}

absl::StatusOr<ExprPtr> ParseNot(TokenStream& s) {
  if (!s.IsName("not")) return ParseCompare(s);
  const TokenStream::Nesting nesting(&s);
  RETURN_IF_ERROR(nesting.Check());
  ExprPtr node = Make(ExprType::kNot, s.line());
  s.Next();
  ASSIGN_OR_RETURN(node->a, ParseNot(s));
  return node;
}

absl::StatusOr<ExprPtr> ParseLogical(TokenStream& s,
                                     std::string_view word,
                                     ExprType type,
                                     absl::StatusOr<ExprPtr> (*operand)(TokenStream&)) {
  ASSIGN_OR_RETURN(ExprPtr left, operand(s));
  for (int chain = 0; s.IsName(word); ++chain) {
    if (chain > kMaxChain) return s.Fail("the expression is too long");
    ExprPtr node = Make(type, s.line());
    s.Next();
    node->a = std::move(left);
    ASSIGN_OR_RETURN(node->b, operand(s));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> ParseAnd(TokenStream& s) {
  return ParseLogical(s, "and", ExprType::kAnd, ParseNot);
}

absl::StatusOr<ExprPtr> ParseOr(TokenStream& s) {
  return ParseLogical(s, "or", ExprType::kOr, ParseAnd);
}

absl::StatusOr<ExprPtr> ParseUnary(TokenStream& s, bool filters) {
  const TokenStream::Nesting nesting(&s);
  RETURN_IF_ERROR(nesting.Check());
  ExprPtr node;
  if (s.IsOp("-") || s.IsOp("+")) {
    node = Make(s.IsOp("-") ? ExprType::kNegate : ExprType::kPlus, s.line());
    s.Next();
    ASSIGN_OR_RETURN(node->a, ParseUnary(s, false));
  } else {
    ASSIGN_OR_RETURN(node, ParsePrimary(s));
  }
  return ParsePostfix(s, std::move(node), filters);
}

// The inside of brackets after an opening one was consumed, up to and with `close`.
absl::StatusOr<ExprPtr> ParseItems(TokenStream& s, ExprPtr node, std::string_view close) {
  while (!s.IsOp(close)) {
    if (!node->items.empty()) {
      RETURN_IF_ERROR(s.ExpectOp(","));
      if (s.IsOp(close)) break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(s));
    node->items.push_back(std::move(item));
    if (node->type != ExprType::kDict) continue;
    RETURN_IF_ERROR(s.ExpectOp(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression(s));
    node->items.push_back(std::move(value));
  }
  s.Next();
  return node;
}

absl::StatusOr<std::unique_ptr<Arguments>> ParseArguments(TokenStream& s) {
  auto args = std::make_unique<Arguments>();
  RETURN_IF_ERROR(s.ExpectOp("("));
  for (bool first = true; !s.IsOp(")"); first = false) {
    if (!first) {
      RETURN_IF_ERROR(s.ExpectOp(","));
      if (s.IsOp(")")) break;
    }
    if (s.IsOp("*") || s.IsOp("**")) {
      const bool named = s.IsOp("**");
      ExprPtr& slot = named ? args->star_star : args->star;
      if (args->star_star != nullptr || slot != nullptr) {
        return s.Fail("invalid syntax for function call expression");
      }
      s.Next();
      ASSIGN_OR_RETURN(slot, ParseExpression(s));
      continue;
    }
    if (s.Is(TokenType::kName) && s.Peek().type == TokenType::kOperator && s.Peek().text == "=") {
      if (args->star_star != nullptr) {
        return s.Fail("invalid syntax for function call expression");
      }
      std::string name = s.current().text;
      for (const auto& [other, value] : args->named) {
        if (other == name) return s.Fail(Concat("keyword argument repeated: ", name));
      }
      s.Next();
      s.Next();
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression(s));
      args->named.emplace_back(std::move(name), std::move(value));
      continue;
    }
    if (!args->named.empty() || args->star != nullptr || args->star_star != nullptr) {
      return s.Fail("invalid syntax for function call expression");
    }
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression(s));
    args->positional.push_back(std::move(value));
  }
  s.Next();
  return args;
}

// One element of a subscript: an expression, or begin:end:step (then a kSlice without its object).
absl::StatusOr<ExprPtr> ParseSubscript(TokenStream& s) {
  ExprPtr slice = Make(ExprType::kSlice, s.line());
  slice->items.resize(3);
  size_t part = 0;
  if (!s.IsOp(":")) {
    ASSIGN_OR_RETURN(ExprPtr first, ParseExpression(s));
    if (!s.IsOp(":")) return first;
    slice->items[0] = std::move(first);
  }
  while (part < 2 && s.SkipOp(":")) {
    ++part;
    if (s.IsOp(":") || s.IsOp("]") || s.IsOp(",")) continue;
    ASSIGN_OR_RETURN(slice->items[part], ParseExpression(s));
  }
  return slice;
}

absl::StatusOr<ExprPtr> ParseBrackets(TokenStream& s, ExprPtr left) {
  const int line = s.line();
  RETURN_IF_ERROR(s.ExpectOp("["));
  ExprPtr index = Make(ExprType::kTuple, line);  // a[] is a[()]
  if (!s.IsOp("]")) {
    ASSIGN_OR_RETURN(index, ParseSubscript(s));
  }
  if (s.IsOp(",")) {
    ExprPtr tuple = Make(ExprType::kTuple, line);
    tuple->items.push_back(std::move(index));
    while (s.SkipOp(",")) {
      ASSIGN_OR_RETURN(ExprPtr item, ParseSubscript(s));
      tuple->items.push_back(std::move(item));
    }
    for (const ExprPtr& item : tuple->items) {
      if (item->type == ExprType::kSlice && item->a == nullptr) {
        return s.Fail("a slice cannot be part of a tuple");
      }
    }
    index = std::move(tuple);
  }
  RETURN_IF_ERROR(s.ExpectOp("]"));
  if (index->type == ExprType::kSlice && index->a == nullptr) {
    index->a = std::move(left);
    return index;
  }
  ExprPtr node = Make(ExprType::kGetItem, line);
  node->a = std::move(left);
  node->b = std::move(index);
  return node;
}

absl::StatusOr<ExprPtr> ParseDot(TokenStream& s, ExprPtr left) {
  const int line = s.line();
  s.Next();
  ExprPtr node;
  if (s.Is(TokenType::kName)) {
    node = Make(ExprType::kGetAttr, line);
    node->text = s.current().text;
  } else if (s.Is(TokenType::kInt)) {
    node = Make(ExprType::kGetItem, line);
    node->b = MakeConstant(Value::Int(s.current().int_value), line);
  } else {
    return s.Unexpected("name or number");
  }
  s.Next();
  node->a = std::move(left);
  return node;
}

absl::StatusOr<std::string> ParseDottedName(TokenStream& s) {
  if (!s.Is(TokenType::kName)) return s.Unexpected("name");
  std::string name = s.current().text;
  s.Next();
  while (s.SkipOp(".")) {
    if (!s.Is(TokenType::kName)) return s.Unexpected("name");
    name += Concat(".", s.current().text);
    s.Next();
  }
  return name;
}

bool StartsTestArgument(const TokenStream& s) {
  switch (s.current().type) {
    case TokenType::kName:
      return !s.IsName("else") && !s.IsName("or") && !s.IsName("and");
    case TokenType::kString:
    case TokenType::kInt:
    case TokenType::kFloat:
      return true;
    default:
      return s.IsOp("[") || s.IsOp("{");
  }
}

absl::StatusOr<ExprPtr> ParseTest(TokenStream& s, ExprPtr left) {
  ExprPtr node = Make(ExprType::kTest, s.line());
  s.Next();
  const bool negated = s.SkipName("not");
  ASSIGN_OR_RETURN(node->text, ParseDottedName(s));
  node->native = FindTest(node->text);
  if (node->native == nullptr && !s.soft) {
    return s.Fail(Concat("no test named '", node->text, "'"));
  }
  node->a = std::move(left);
  if (s.IsOp("(")) {
    ASSIGN_OR_RETURN(node->args, ParseArguments(s));
  } else if (StartsTestArgument(s)) {
    if (s.IsName("is")) return s.Fail("you cannot chain multiple tests with is");
    ASSIGN_OR_RETURN(ExprPtr arg, ParsePrimary(s));
    ASSIGN_OR_RETURN(arg, ParsePostfix(s, std::move(arg), false));
    node->args = std::make_unique<Arguments>();
    node->args->positional.push_back(std::move(arg));
  }
  if (!negated) return node;
  ExprPtr inverse = Make(ExprType::kNot, node->line);
  inverse->a = std::move(node);
  return inverse;
}

absl::StatusOr<ExprPtr> ParseStrings(TokenStream& s) {
  const int line = s.line();
  std::string text;
  for (; s.Is(TokenType::kString); s.Next()) text += s.current().text;
  return MakeConstant(ConstantStr(std::move(text)), line);
}

}  // namespace

absl::StatusOr<ExprPtr> ParseExpression(TokenStream& s, bool with_conditional) {
  if (!with_conditional) return ParseOr(s);
  ASSIGN_OR_RETURN(ExprPtr value, ParseOr(s));
  for (int chain = 0; s.IsName("if"); ++chain) {
    const TokenStream::Nesting nesting(&s);
    RETURN_IF_ERROR(nesting.Check());
    if (chain > kMaxSuffixes) return s.Fail("the expression is too long");
    ExprPtr node = Make(ExprType::kConditional, s.line());
    s.Next();
    node->a = std::move(value);
    ASSIGN_OR_RETURN(node->b, ParseOr(s));
    if (s.SkipName("else")) {
      ASSIGN_OR_RETURN(node->c, ParseExpression(s));
    }
    value = std::move(node);
  }
  return value;
}

absl::StatusOr<ExprPtr> ParseTuple(TokenStream& s,
                                   bool with_conditional,
                                   std::string_view stop,
                                   bool in_parentheses) {
  const int line = s.line();
  ExprPtr tuple = Make(ExprType::kTuple, line);
  bool is_tuple = false;
  for (;;) {
    if (!tuple->items.empty()) {
      if (!s.SkipOp(",")) break;
      is_tuple = true;
    }
    if (s.Is(TokenType::kVariableEnd) || s.Is(TokenType::kBlockEnd) || s.IsOp(")") ||
        (!stop.empty() && s.IsName(stop))) {
      break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(s, with_conditional));
    tuple->items.push_back(std::move(item));
  }
  if (is_tuple) return tuple;
  if (!tuple->items.empty()) return std::move(tuple->items[0]);
  if (!in_parentheses) return s.Unexpected("an expression");
  return tuple;
}

absl::StatusOr<ExprPtr> ParsePrimary(TokenStream& s) {
  const int line = s.line();
  const Token& token = s.current();
  ExprPtr node;
  switch (token.type) {
    case TokenType::kName: {
      if (token.text == "true" || token.text == "True") {
        node = MakeConstant(Value::Bool(true), line);
      } else if (token.text == "false" || token.text == "False") {
        node = MakeConstant(Value::Bool(false), line);
      } else if (token.text == "none" || token.text == "None") {
        node = MakeConstant(Value::None(), line);
      } else {
        node = Make(ExprType::kName, line);
        node->name = s.Intern(token.text);
        s.NoteUse(node->name);
      }
      s.Next();
      return node;
    }
    case TokenType::kString:
      return ParseStrings(s);
    case TokenType::kInt:
    case TokenType::kFloat: {
      node = MakeConstant(token.type == TokenType::kInt ? Value::Int(token.int_value)
                                                        : Value::Float(token.float_value),
                          line);
      s.Next();
      return node;
    }
    default:
      break;
  }
  if (s.SkipOp("(")) {
    ASSIGN_OR_RETURN(node, ParseTuple(s, true, {}, true));
    RETURN_IF_ERROR(s.ExpectOp(")"));
    return node;
  }
  if (s.SkipOp("[")) return ParseItems(s, Make(ExprType::kList, line), "]");
  if (s.SkipOp("{")) return ParseItems(s, Make(ExprType::kDict, line), "}");
  return s.Unexpected("an expression");
}

absl::StatusOr<ExprPtr> ParseFilters(TokenStream& s, ExprPtr left, bool start_inline) {
  for (int chain = 0; s.IsOp("|") || start_inline; ++chain) {
    if (chain > kMaxSuffixes) return s.Fail("the expression is too long");
    if (!start_inline) s.Next();
    start_inline = false;
    ExprPtr node = Make(ExprType::kFilter, s.line());
    ASSIGN_OR_RETURN(node->text, ParseDottedName(s));
    node->native = FindFilter(node->text);
    if (node->native == nullptr && !s.soft) {
      return s.Fail(Concat("no filter named '", node->text, "'"));
    }
    node->a = std::move(left);
    if (s.IsOp("(")) {
      ASSIGN_OR_RETURN(node->args, ParseArguments(s));
    }
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> ParsePostfix(TokenStream& s, ExprPtr left, bool filters) {
  bool after_filter = false;
  for (int chain = 0;; ++chain) {
    if (chain > kMaxSuffixes) return s.Fail("the expression is too long");
    if (s.IsOp("(")) {
      ExprPtr node = Make(ExprType::kCall, s.line());
      ASSIGN_OR_RETURN(node->args, ParseArguments(s));
      node->a = std::move(left);
      left = std::move(node);
    } else if (!after_filter && s.IsOp(".")) {
      ASSIGN_OR_RETURN(left, ParseDot(s, std::move(left)));
    } else if (!after_filter && s.IsOp("[")) {
      ASSIGN_OR_RETURN(left, ParseBrackets(s, std::move(left)));
    } else if (filters && s.IsOp("|")) {
      ASSIGN_OR_RETURN(left, ParseFilters(s, std::move(left), false));
      after_filter = true;
    } else if (filters && s.IsName("is")) {
      ASSIGN_OR_RETURN(left, ParseTest(s, std::move(left)));
      after_filter = true;
    } else {
      return left;
    }
  }
}

}  // namespace paceline::model
