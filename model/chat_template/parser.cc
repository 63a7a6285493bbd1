// Statements: literal text, {{ … }} and the block tags.
#include "model/chat_template/parser.h"

#include <initializer_list>

#include "model/chat_template/concat.h"
#include "model/chat_template/token_stream.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

using StmtPtr = std::unique_ptr<Stmt>;

StmtPtr MakeStmt(StmtType type, int line) {
  auto stmt = std::make_unique<Stmt>();
  stmt->type = type;
  stmt->line = line;
  return stmt;
}

class Parser {
 public:
  Parser(std::vector<Token> tokens, Ast* ast) : s_(std::move(tokens), ast), ast_(ast) {
    ast->loop = s_.Intern("loop");
    ast->caller = s_.Intern("caller");
    ast->varargs = s_.Intern("varargs");
    ast->kwargs = s_.Intern("kwargs");
  }

  absl::Status Run() {
    RETURN_IF_ERROR(ParseBody({}, &ast_->body));
    return absl::OkStatus();
  }

 private:
  // Statements up to one of the tags `ends`, whose name is then the current token; with no `ends`
  // up to the end of the template.
  absl::Status ParseBody(std::initializer_list<std::string_view> ends, Body* body) {
    const TokenStream::Nesting nesting(&s_);
    RETURN_IF_ERROR(nesting.Check());
    for (;;) {
      const int line = s_.line();
      switch (s_.current().type) {
        case TokenType::kData: {
          StmtPtr stmt = MakeStmt(StmtType::kData, line);
          stmt->text = s_.current().text;
          s_.Next();
          body->push_back(std::move(stmt));
          break;
        }
        case TokenType::kVariableBegin: {
          s_.Next();
          StmtPtr stmt = MakeStmt(StmtType::kOutput, line);
          ASSIGN_OR_RETURN(stmt->expr, ParseTuple(s_));
          RETURN_IF_ERROR(s_.Expect(TokenType::kVariableEnd, "end of print statement"));
          body->push_back(std::move(stmt));
          break;
        }
        case TokenType::kBlockBegin: {
          s_.Next();
          for (const std::string_view end : ends) {
            if (s_.IsName(end)) return absl::OkStatus();
          }
          RETURN_IF_ERROR(ParseStatement(body));
          RETURN_IF_ERROR(s_.Expect(TokenType::kBlockEnd, "end of statement block"));
          break;
        }
        default:
          if (ends.size() == 0) return absl::OkStatus();
          return s_.Fail(
              Concat("unexpected end of template, looking for '", *(ends.end() - 1), "'"));
      }
    }
  }

  // The body of a block tag: the rest of the tag must be empty. Ends on the name that ended it.
  absl::Status ParseBlockBody(std::initializer_list<std::string_view> ends, Body* body) {
    s_.SkipOp(":");
    RETURN_IF_ERROR(s_.Expect(TokenType::kBlockEnd, "end of statement block"));
    return ParseBody(ends, body);
  }

  absl::Status ParseStatement(Body* body) {
    if (!s_.Is(TokenType::kName)) return s_.Fail("tag name expected");
    const std::string tag = s_.current().text;
    const int line = s_.line();
    s_.Next();
    if (tag == "set") return ParseSet(line, body);
    if (tag == "if") return ParseIf(line, body);
    if (tag == "for") return ParseFor(line, body);
    if (tag == "macro") return ParseMacro(line, body);
    if (tag == "call") return ParseCallBlock(line, body);
    if (tag == "filter") return ParseFilterBlock(line, body);
    if (tag == "with") return ParseWith(line, body);
    if (tag == "generation") return ParseGeneration(line, body);
    if (tag == "print") return ParsePrint(line, body);
    if (tag == "break" || tag == "continue") {
      if (s_.loops.empty()) return s_.Fail(Concat("'", tag, "' outside of a loop"));
      body->push_back(MakeStmt(tag == "break" ? StmtType::kBreak : StmtType::kContinue, line));
      return absl::OkStatus();
    }
    for (const std::string_view refused :
         {"include", "import", "from", "extends", "block", "autoescape"}) {
      if (tag == refused) {
        return SyntaxError(line, Concat("'", tag, "' has no place in a chat template"));
      }
    }
    return SyntaxError(line, Concat("Encountered unknown tag '", tag.substr(0, 80), "'."));
  }

  // name, name.attribute (with `attributes`), or a tuple of them.
  absl::StatusOr<Target> ParseTarget(bool attributes, std::string_view stop) {
    Target target;
    if (s_.Is(TokenType::kName) && s_.Peek().type == TokenType::kOperator &&
        s_.Peek().text == "." && attributes) {
      target.name = s_.Intern(s_.current().text);
      s_.NoteUse(target.name);
      s_.Next();
      s_.Next();
      if (!s_.Is(TokenType::kName)) return s_.Unexpected("name");
      target.attribute = s_.current().text;
      s_.Next();
      return target;
    }
    for (bool first = true;; first = false) {
      if (!first) {
        if (!s_.SkipOp(",")) break;
        target.tuple = true;
      }
      if (s_.Is(TokenType::kBlockEnd) || s_.IsOp("=") || (!stop.empty() && s_.IsName(stop))) break;
      ASSIGN_OR_RETURN(const ExprPtr expr, ParsePrimary(s_));
      ASSIGN_OR_RETURN(Target part, ToTarget(*expr));
      target.items.push_back(std::move(part));
    }
    if (target.items.empty()) return s_.Unexpected("an expression");
    if (target.tuple) return target;
    return std::move(target.items[0]);
  }

  absl::StatusOr<Target> ToTarget(const Expr& expr) {
    Target target;
    if (expr.type == ExprType::kName) {
      target.name = expr.name;
      return target;
    }
    if (expr.type != ExprType::kTuple) return s_.Fail("can't assign to this expression");
    target.tuple = true;
    for (const ExprPtr& item : expr.items) {
      ASSIGN_OR_RETURN(Target part, ToTarget(*item));
      target.items.push_back(std::move(part));
    }
    return target;
  }

  absl::Status ParseSet(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kSet, line);
    ASSIGN_OR_RETURN(stmt->target, ParseSetTarget());
    if (s_.SkipOp("=")) {
      ASSIGN_OR_RETURN(stmt->expr, ParseTuple(s_));
    } else {
      stmt->type = StmtType::kSetBlock;
      ASSIGN_OR_RETURN(stmt->expr, ParseFilters(s_, nullptr, false));
      RETURN_IF_ERROR(ParseBlockBody({"endset"}, &stmt->body));
      s_.Next();
    }
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  // The target of `set`: what stands before "=", or before the end of the tag or a filter.
  absl::StatusOr<Target> ParseSetTarget() {
    if (s_.IsName("true") || s_.IsName("false") || s_.IsName("none") || s_.IsName("True") ||
        s_.IsName("False") || s_.IsName("None")) {
      return s_.Fail("can't assign to a constant");
    }
    const TokenType next = s_.Peek().type;
    const bool filtered = next == TokenType::kOperator && s_.Peek().text == "|";
    if (s_.Is(TokenType::kName) && filtered) {
      Target target;
      target.name = s_.Intern(s_.current().text);
      s_.Next();
      return target;
    }
    return ParseTarget(true, {});
  }

  absl::Status ParseIf(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kIf, line);
    const bool outer_soft = s_.soft;
    for (bool more = true; more;) {
      Branch& branch = stmt->branches.emplace_back();
      ASSIGN_OR_RETURN(branch.test, ParseTuple(s_, false));
      s_.soft = true;
      RETURN_IF_ERROR(ParseBlockBody({"elif", "else", "endif"}, &branch.body));
      more = s_.IsName("elif");
      const bool has_else = s_.IsName("else");
      s_.Next();
      if (has_else) {
        RETURN_IF_ERROR(ParseBlockBody({"endif"}, &stmt->branches.emplace_back().body));
        s_.Next();
      }
    }
    s_.soft = outer_soft;
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseFor(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kFor, line);
    ASSIGN_OR_RETURN(stmt->target, ParseTarget(false, "in"));
    RETURN_IF_ERROR(s_.ExpectName("in"));
    ASSIGN_OR_RETURN(stmt->expr, ParseTuple(s_, false, "recursive"));
    if (s_.SkipName("if")) {
      ASSIGN_OR_RETURN(stmt->condition, ParseExpression(s_));
    }
    stmt->recursive = s_.SkipName("recursive");
    s_.loops.push_back(stmt.get());
    RETURN_IF_ERROR(ParseBlockBody({"endfor", "else"}, &stmt->body));
    s_.loops.pop_back();
    const bool has_else = s_.IsName("else");
    s_.Next();
    if (has_else) {
      RETURN_IF_ERROR(ParseBlockBody({"endfor"}, &stmt->else_body));
      s_.Next();
    }
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  // (a, b=default, …)
  absl::Status ParseSignature(Macro* macro) {
    RETURN_IF_ERROR(s_.ExpectOp("("));
    while (!s_.IsOp(")")) {
      if (!macro->parameters.empty()) RETURN_IF_ERROR(s_.ExpectOp(","));
      if (!s_.Is(TokenType::kName)) return s_.Unexpected("name");
      const std::string name = s_.current().text;
      for (const std::string& other : macro->parameter_names) {
        if (other == name) return s_.Fail(Concat("duplicate argument '", name, "'"));
      }
      macro->parameters.push_back(s_.Intern(name));
      macro->parameter_names.push_back(name);
      s_.Next();
      ExprPtr value;
      if (s_.SkipOp("=")) {
        ASSIGN_OR_RETURN(value, ParseExpression(s_));
      } else if (!macro->defaults.empty() && macro->defaults.back() != nullptr) {
        return s_.Fail("non-default argument follows default argument");
      }
      macro->defaults.push_back(std::move(value));
    }
    s_.Next();
    return absl::OkStatus();
  }

  absl::Status ParseMacroBody(Macro* macro, std::string_view end) {
    s_.macros.push_back(macro);
    // A macro's body is a function: it may read `loop` of a loop around it, but not break it.
    std::vector<Stmt*> outer_loops = std::move(s_.loops);
    s_.loops.clear();
    for (Stmt* loop : outer_loops) loop->uses_loop = true;
    RETURN_IF_ERROR(ParseBlockBody({end}, &macro->body));
    s_.loops = std::move(outer_loops);
    s_.macros.pop_back();
    s_.Next();
    return absl::OkStatus();
  }

  absl::Status ParseMacro(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kMacro, line);
    stmt->macro = std::make_unique<Macro>();
    if (!s_.Is(TokenType::kName)) return s_.Unexpected("name");
    stmt->macro->name = s_.current().text;
    stmt->target.name = s_.Intern(s_.current().text);
    s_.Next();
    RETURN_IF_ERROR(ParseSignature(stmt->macro.get()));
    RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endmacro"));
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseCallBlock(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kCallBlock, line);
    stmt->macro = std::make_unique<Macro>();
    stmt->macro->name = "caller";
    if (s_.IsOp("(")) RETURN_IF_ERROR(ParseSignature(stmt->macro.get()));
    ASSIGN_OR_RETURN(stmt->expr, ParseExpression(s_));
    if (stmt->expr->type != ExprType::kCall) return s_.Fail("expected call");
    RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endcall"));
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseFilterBlock(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kFilter, line);
    ASSIGN_OR_RETURN(stmt->expr, ParseFilters(s_, nullptr, true));
    RETURN_IF_ERROR(ParseBlockBody({"endfilter"}, &stmt->body));
    s_.Next();
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParseWith(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kScope, line);
    while (!s_.Is(TokenType::kBlockEnd)) {
      if (!stmt->with.empty()) RETURN_IF_ERROR(s_.ExpectOp(","));
      ASSIGN_OR_RETURN(const ExprPtr name, ParsePrimary(s_));
      ASSIGN_OR_RETURN(Target target, ToTarget(*name));
      RETURN_IF_ERROR(s_.ExpectOp("="));
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression(s_));
      stmt->with.emplace_back(std::move(target), std::move(value));
    }
    RETURN_IF_ERROR(ParseBlockBody({"endwith"}, &stmt->body));
    s_.Next();
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  // Hugging Face marks the assistant's tokens for training with it; here it is only a scope.
  absl::Status ParseGeneration(int line, Body* body) {
    StmtPtr stmt = MakeStmt(StmtType::kScope, line);
    std::vector<Stmt*> outer_loops = std::move(s_.loops);
    s_.loops.clear();
    RETURN_IF_ERROR(ParseBlockBody({"endgeneration"}, &stmt->body));
    for (Stmt* loop : outer_loops) loop->uses_loop = true;
    s_.loops = std::move(outer_loops);
    s_.Next();
    body->push_back(std::move(stmt));
    return absl::OkStatus();
  }

  absl::Status ParsePrint(int line, Body* body) {
    for (bool first = true; !s_.Is(TokenType::kBlockEnd); first = false) {
      if (!first) RETURN_IF_ERROR(s_.ExpectOp(","));
      StmtPtr stmt = MakeStmt(StmtType::kOutput, line);
      ASSIGN_OR_RETURN(stmt->expr, ParseExpression(s_));
      body->push_back(std::move(stmt));
    }
    return absl::OkStatus();
  }

  TokenStream s_;
  Ast* ast_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ast>> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  auto ast = std::make_unique<Ast>();
  RETURN_IF_ERROR(Parser(std::move(tokens), ast.get()).Run());
  return ast;
}

}  // namespace paceline::model
