// Reads the reference cases of tests/data/tokenizer. For tests only; any thread.
#ifndef PACELINE_TESTS_MODEL_TOKENIZER_TOKENIZER_CASES_H_
#define PACELINE_TESTS_MODEL_TOKENIZER_TOKENIZER_CASES_H_

#include <memory>
#include <string>

#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace paceline::model {

// Vocabulary and cases of a family: {"vocabulary", "cases", "decodes"}.
nlohmann::json ReadFamily(const std::string& family);
Vocabulary FamilyVocabulary(const nlohmann::json& family);
// Dies when the vocabulary is refused.
std::shared_ptr<const Tokenizer> FamilyTokenizer(const std::string& family);

}  // namespace paceline::model

#endif  // PACELINE_TESTS_MODEL_TOKENIZER_TOKENIZER_CASES_H_
