// Renders JSON lines {"source", "messages"?, "tools"?, "documents"?, "extra"?,
// "add_generation_prompt"?} from standard input to lines {"text"} or {"error"}: the other side of
// tests/data/chat_template/differential.py.
#include <iostream>
#include <string>

#include "model/chat_template/chat_template.h"

namespace {

using Json = nlohmann::ordered_json;
using paceline::model::ChatTemplate;

const Json* Member(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

Json RenderLine(const Json& line) {
  const auto chat_template = ChatTemplate::Parse(line["source"].get<std::string>());
  if (!chat_template.ok()) return {{"error", std::string(chat_template.status().message())}};
  ChatTemplate::Inputs inputs;
  inputs.messages = Member(line, "messages");
  inputs.tools = Member(line, "tools");
  inputs.documents = Member(line, "documents");
  inputs.extra = Member(line, "extra");
  inputs.add_generation_prompt = line.value("add_generation_prompt", false);
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  const auto prompt = (*chat_template)->Render(inputs);
  if (!prompt.ok()) return {{"error", std::string(prompt.status().message())}};
  return {{"text", prompt->text}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << RenderLine(Json::parse(line)).dump(-1, ' ', false, Json::error_handler_t::replace)
              << "\n";
  }
}
