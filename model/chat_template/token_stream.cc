#include "model/chat_template/token_stream.h"

#include <cstdlib>

#include "model/chat_template/concat.h"

namespace paceline::model {
namespace {
// Real templates nest about ten deep.
constexpr int kMaxNesting = 100;
constexpr ptrdiff_t kMaxStackBytes = ptrdiff_t{500} << 10;
}  // namespace

TokenStream::TokenStream(std::vector<Token> tokens, Ast* ast)
    : tokens_(std::move(tokens)),
      stack_base_(static_cast<const char*>(__builtin_frame_address(0))),
      ast_(ast) {}

bool TokenStream::SkipName(std::string_view name) {
  if (!IsName(name)) return false;
  Next();
  return true;
}

bool TokenStream::SkipOp(std::string_view op) {
  if (!IsOp(op)) return false;
  Next();
  return true;
}

absl::Status TokenStream::Unexpected(std::string_view wanted) const {
  std::string got;
  switch (current().type) {
    case TokenType::kVariableEnd:
      got = "end of print statement";
      break;
    case TokenType::kBlockEnd:
      got = "end of statement block";
      break;
    case TokenType::kEnd:
      got = "end of template";
      break;
    case TokenType::kInt:
      got = "integer";
      break;
    case TokenType::kFloat:
      got = "float";
      break;
    case TokenType::kString:
      got = "string";
      break;
    default:
      got = Concat("'", current().text.substr(0, 80), "'");
  }
  return Fail(Concat("expected ", wanted, ", got ", got));
}

absl::Status TokenStream::Expect(TokenType type, std::string_view what) {
  if (!Is(type)) return Unexpected(what);
  Next();
  return absl::OkStatus();
}

absl::Status TokenStream::ExpectOp(std::string_view op) {
  return SkipOp(op) ? absl::OkStatus() : Unexpected(Concat("'", op, "'"));
}

absl::Status TokenStream::ExpectName(std::string_view name) {
  return SkipName(name) ? absl::OkStatus() : Unexpected(Concat("'", name, "'"));
}

int TokenStream::Intern(const std::string& name) {
  const auto [it, added] = names_.emplace(name, static_cast<int>(ast_->names.size()));
  if (added) ast_->names.push_back(name);
  return it->second;
}

void TokenStream::NoteUse(int name) {
  if (name == ast_->loop) {
    for (Stmt* loop : loops) loop->uses_loop = true;
  } else if (name == ast_->caller) {
    for (Macro* macro : macros) macro->uses_caller = true;
  } else if (name == ast_->varargs) {
    for (Macro* macro : macros) macro->uses_varargs = true;
  } else if (name == ast_->kwargs) {
    for (Macro* macro : macros) macro->uses_kwargs = true;
  }
}

absl::Status TokenStream::Nesting::Check() const {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  if (stream_->depth_ > kMaxNesting || std::abs(stream_->stack_base_ - here) > kMaxStackBytes) {
    return stream_->Fail("the template is nested too deeply");
  }
  return absl::OkStatus();
}

}  // namespace paceline::model
