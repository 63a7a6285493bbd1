// The parsed form of a template. Built by the parser, owned by ChatTemplate, immutable afterwards;
// any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_AST_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_AST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/native.h"
#include "model/chat_template/value.h"

namespace paceline::model {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class ExprType : uint8_t {
  kConstant,     // constant
  kName,         // name
  kList,         // items
  kTuple,        // items
  kDict,         // items: key, value, key, value, …
  kGetAttr,      // a . text
  kGetItem,      // a [ b ]
  kSlice,        // a [ items[0] : items[1] : items[2] ], absent bounds null
  kCall,         // a ( args )
  kFilter,       // a | text ( args ); a is null at the start of a filter block
  kTest,         // a is text ( args )
  kNegate,       // -a
  kPlus,         // +a
  kNot,          // not a
  kBinary,       // a op b
  kConcat,       // items, joined by ~
  kCompare,      // items[0] compares[0] items[1] compares[1] …
  kAnd,          // a and b
  kOr,           // a or b
  kConditional,  // a if b else c; c may be null
};

enum class BinaryOp : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;       // *args
  ExprPtr star_star;  // **kwargs
};

struct Expr {
  ExprType type = ExprType::kConstant;
  BinaryOp binary = BinaryOp::kAdd;
  int line = 0;
  int name = -1;  // index into Ast::names
  Value constant;
  std::string text;
  NativeFn native = nullptr;  // kFilter, kTest: nullptr when there is none of this name
  ExprPtr a, b, c;
  std::vector<ExprPtr> items;
  std::vector<CompareOp> compares;
  std::unique_ptr<Arguments> args;
};

// What `set` and `for` assign to.
struct Target {
  int name = -1;
  std::string attribute;  // namespace attribute; empty: the name itself
  std::vector<Target> items;
  bool tuple = false;  // unpack into items
};

enum class StmtType : uint8_t {
  kData,       // text
  kOutput,     // expr
  kSet,        // target = expr
  kSetBlock,   // target = body, filtered by expr if there is one
  kFor,        // target in expr if condition: body else else_body
  kIf,         // the first of branches whose test holds
  kMacro,      // macro
  kCallBlock,  // expr (a kCall), macro is the caller
  kFilter,     // expr applied to body
  kScope,      // body in a scope of its own, after assigning `with`
  kBreak,
  kContinue,
};

struct Macro {
  std::string name;
  std::vector<int> parameters;
  std::vector<std::string> parameter_names;
  std::vector<ExprPtr> defaults;  // one for each parameter, null without default
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  Body body;
};

struct Branch {
  ExprPtr test;  // null: else
  Body body;
};

struct Stmt {
  StmtType type = StmtType::kData;
  bool recursive = false;  // kFor
  bool uses_loop = false;  // kFor: the body mentions `loop`
  int line = 0;
  std::string text;
  ExprPtr expr;
  ExprPtr condition;
  Target target;
  Body body;
  Body else_body;
  std::vector<Branch> branches;                  // kIf
  std::vector<std::pair<Target, ExprPtr>> with;  // kScope
  std::unique_ptr<Macro> macro;
};

struct Ast {
  std::vector<std::string> names;  // every variable name in the template
  Body body;
  // Indices of the names that the language itself sets.
  int loop = -1;
  int caller = -1;
  int varargs = -1;
  int kwargs = -1;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_AST_H_
