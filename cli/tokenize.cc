// `paceline tokenize MODEL`: text or conversations in, token ids out; no server.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "model/chat_template/chat_template.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary_gguf.h"
#include "nlohmann/json.hpp"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ErrorLine(const std::string& message) { return Dump({{"error", message}}); }

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

std::optional<std::string> TokenText(const model::Tokenizer& tokenizer, int32_t id) {
  if (id < 0) return std::nullopt;
  return tokenizer.vocabulary().tokens[id];
}

// {"text"} → {"ids", "decoded"}: special tokens in the text are matched, none are added.
std::string TokenizeLine(const model::Tokenizer& tokenizer, const Json& line) {
  if (!line.is_object() || !line.contains("text") || !line["text"].is_string()) {
    return ErrorLine("each line must be an object with a string 'text'");
  }
  const std::vector<int32_t> ids = tokenizer.Encode(line["text"].get_ref<const std::string&>());
  return Dump({{"ids", ids}, {"decoded", tokenizer.Decode(ids, /*skip_special=*/false)}});
}

// {"messages", …} → {"prompt", "ids"}.
std::string RenderLine(const model::Tokenizer& tokenizer,
                       const model::ChatTemplate& chat_template,
                       Json line) {
  if (!line.is_object() || !line.contains("messages") || !line["messages"].is_array()) {
    return ErrorLine("each line must be an object with a list 'messages'");
  }
  const auto take = [&line](const char* key) {
    Json value;
    if (line.contains(key)) {
      value = std::move(line[key]);
      line.erase(key);
    }
    return value;
  };
  const Json messages = take("messages");
  const Json tools = take("tools");
  const Json documents = take("documents");
  const Json add_generation_prompt = take("add_generation_prompt");
  if (!add_generation_prompt.is_null() && !add_generation_prompt.is_boolean()) {
    return ErrorLine("'add_generation_prompt' must be a boolean");
  }
  const model::Vocabulary& vocabulary = tokenizer.vocabulary();
  const auto rendered = chat_template.Render({
      .messages = &messages,
      .tools = tools.is_null() ? nullptr : &tools,
      .documents = documents.is_null() ? nullptr : &documents,
      .add_generation_prompt =
          add_generation_prompt.is_boolean() && add_generation_prompt.get<bool>(),
      .bos_token = TokenText(tokenizer, vocabulary.bos_id),
      .eos_token = TokenText(tokenizer, vocabulary.eos_id),
      .unk_token = TokenText(tokenizer, vocabulary.unk_id),
      .pad_token = TokenText(tokenizer, vocabulary.pad_id),
      .extra = &line,
      .now_unix_seconds = std::chrono::duration_cast<std::chrono::seconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count(),
      .limits = {},
  });
  if (!rendered.ok()) return ErrorLine(std::string(rendered.status().message()));
  const std::vector<int32_t> ids =
      tokenizer.Encode(rendered->text, {.parse_special = true, .untrusted = rendered->untrusted});
  return Dump({{"prompt", rendered->text}, {"ids", ids}});
}

absl::StatusOr<std::unique_ptr<model::ChatTemplate>> LoadTemplate(
    const TokenizeOptions& options, const model::Tokenizer& tokenizer) {
  std::string source = tokenizer.vocabulary().chat_template;
  if (!options.chat_template.empty()) {
    ASSIGN_OR_RETURN(source, ReadFile(options.chat_template));
  } else if (source.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.model, ": the model has no chat template; give --chat-template FILE"));
  }
  return model::ChatTemplate::Parse(std::move(source));
}

absl::Status Run(const TokenizeOptions& options) {
  RETURN_IF_ERROR(CheckModelPath(options.model));
  if (options.jsonl && options.chat) {
    return absl::InvalidArgumentError("--jsonl and --chat exclude each other");
  }
  if (!options.chat_template.empty() && !options.chat) {
    return absl::InvalidArgumentError("--chat-template: only together with --chat");
  }
  std::shared_ptr<const model::Tokenizer> tokenizer;
  {
    auto file = model::GgufFile::Open(options.model);
    if (!file.ok()) {
      return absl::Status(file.status().code(),
                          absl::StrCat(options.model, ": ", file.status().message()));
    }
    ASSIGN_OR_RETURN(model::Vocabulary vocabulary, model::VocabularyFromGguf(**file));
    ASSIGN_OR_RETURN(tokenizer, model::Tokenizer::Create(std::move(vocabulary)));
  }
  std::ios::sync_with_stdio(false);
  if (!options.jsonl && !options.chat) {
    const std::string text(std::istreambuf_iterator<char>(std::cin), {});
    for (const int32_t id : tokenizer->Encode(text)) {
      // The piece as a JSON string, so that every byte of it can be seen.
      std::cout << id << ' ' << Dump(std::string(tokenizer->TokenBytes(id))) << '\n';
    }
    std::cout.flush();
    return absl::OkStatus();
  }
  std::unique_ptr<model::ChatTemplate> chat_template;
  if (options.chat) {
    ASSIGN_OR_RETURN(chat_template, LoadTemplate(options, *tokenizer));
  }
  bool all_good = true;
  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) continue;
    Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    std::string out;
    if (json.is_discarded()) {
      out = ErrorLine("the line is not valid JSON");
    } else {
      out = options.chat ? RenderLine(*tokenizer, *chat_template, std::move(json))
                         : TokenizeLine(*tokenizer, json);
    }
    all_good = all_good && out.rfind("{\"error\"", 0) != 0;
    std::cout << out << '\n';
  }
  std::cout.flush();
  if (!std::cout) return absl::DataLossError("standard output: writing failed");
  return all_good ? absl::OkStatus() : absl::AbortedError("some lines were refused");
}

}  // namespace

int RunTokenize(const TokenizeOptions& options) {
  const absl::Status status = Run(options);
  if (absl::IsAborted(status)) return 1;
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
