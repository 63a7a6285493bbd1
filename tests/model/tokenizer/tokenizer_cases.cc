#include "tests/model/tokenizer/tokenizer_cases.h"

#include <fstream>

namespace paceline::model {

nlohmann::json ReadFamily(const std::string& family) {
  std::ifstream file(PACELINE_SOURCE_DIR "/tests/data/tokenizer/" + family + ".json");
  return nlohmann::json::parse(file);
}

Vocabulary FamilyVocabulary(const nlohmann::json& family) {
  const nlohmann::json& json = family["vocabulary"];
  Vocabulary vocabulary;
  vocabulary.model = json["model"];
  vocabulary.pre = json["pre"];
  vocabulary.tokens = json["tokens"].get<std::vector<std::string>>();
  vocabulary.token_types = json["token_types"].get<std::vector<int32_t>>();
  vocabulary.scores = json.value("scores", std::vector<float>());
  vocabulary.merges = json["merges"].get<std::vector<std::string>>();
  vocabulary.bos_id = json.value("bos_id", -1);
  vocabulary.eos_id = json.value("eos_id", -1);
  vocabulary.unk_id = json.value("unk_id", -1);
  vocabulary.add_space_prefix = json.value("add_space_prefix", false);
  return vocabulary;
}

std::shared_ptr<const Tokenizer> FamilyTokenizer(const std::string& family) {
  return Tokenizer::Create(FamilyVocabulary(ReadFamily(family))).value();
}

}  // namespace paceline::model
