// The parser's cursor over the tokens, and what its two halves (expressions, statements) share.
// One thread, for the length of one parse.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_TOKEN_STREAM_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_TOKEN_STREAM_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/lexer.h"

namespace paceline::model {

class TokenStream {
 public:
  TokenStream(std::vector<Token> tokens, Ast* ast);

  const Token& current() const { return tokens_[next_]; }
  const Token& Peek() const { return tokens_[next_ + 1 < tokens_.size() ? next_ + 1 : next_]; }
  int line() const { return current().line; }
  void Next() {
    if (next_ + 1 < tokens_.size()) ++next_;
  }
  bool Is(TokenType type) const { return current().type == type; }
  bool IsName(std::string_view name) const {
    return Is(TokenType::kName) && current().text == name;
  }
  bool IsOp(std::string_view op) const { return Is(TokenType::kOperator) && current().text == op; }
  bool SkipName(std::string_view name);
  bool SkipOp(std::string_view op);
  absl::Status Expect(TokenType type, std::string_view what);
  absl::Status ExpectOp(std::string_view op);
  absl::Status ExpectName(std::string_view name);
  absl::Status Fail(std::string_view message) const { return SyntaxError(line(), message); }
  absl::Status Unexpected(std::string_view wanted) const;

  // The index of a variable name, and the mark it leaves on what encloses it.
  int Intern(const std::string& name);
  void NoteUse(int name);

  // Whether an unknown filter or test is only an error once reached, as in a branch of an `if`.
  bool soft = false;
  std::vector<Macro*> macros;  // enclosing, outermost first
  std::vector<Stmt*> loops;    // enclosing, outermost first

  // Counts one level of nesting while in scope.
  class Nesting {
   public:
    explicit Nesting(TokenStream* stream) : stream_(stream) { ++stream_->depth_; }
    ~Nesting() { --stream_->depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    absl::Status Check() const;

   private:
    TokenStream* stream_;
  };

 private:
  std::vector<Token> tokens_;
  size_t next_ = 0;
  int depth_ = 0;
  const char* stack_base_;
  Ast* ast_;
  std::unordered_map<std::string, int> names_;
};

// parser_expressions.cc
absl::StatusOr<ExprPtr> ParseExpression(TokenStream& s, bool with_conditional = true);
// A tuple where a comma makes it one. `stop` is a name that ends it.
absl::StatusOr<ExprPtr> ParseTuple(TokenStream& s,
                                   bool with_conditional = true,
                                   std::string_view stop = {},
                                   bool in_parentheses = false);
absl::StatusOr<ExprPtr> ParsePrimary(TokenStream& s);
// The suffixes . [] () of `left`, and with `filters` also | and is.
absl::StatusOr<ExprPtr> ParsePostfix(TokenStream& s, ExprPtr left, bool filters);
// One or more filters after the first "|" (at the start of a filter block: without it).
absl::StatusOr<ExprPtr> ParseFilters(TokenStream& s, ExprPtr left, bool start_inline);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_TOKEN_STREAM_H_
