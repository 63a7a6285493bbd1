#include "model/tokenizer/unicode_class.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace paceline::model {
namespace {

struct CodePointRange {
  uint32_t first;
  uint32_t last;
};

#include "model/tokenizer/unicode_ranges.inc"

constexpr uint32_t kPageSize = 256;
constexpr uint32_t kNumPages = 0x110000 / kPageSize;

// Class by code point in pages of 256; pages of one class only are shared.
class ClassTable {
 public:
  ClassTable() {
    std::vector<UnicodeClass> flat(kPageSize * kNumPages, UnicodeClass::kOther);
    Fill(flat, kLetterRanges, UnicodeClass::kLetter);
    Fill(flat, kNumberRanges, UnicodeClass::kNumber);
    Fill(flat, kSpaceRanges, UnicodeClass::kSpace);
    Fill(flat, kNewNumberRanges, UnicodeClass::kNewNumber);
    for (uint32_t page = 0; page < kNumPages; ++page) AddPage(page, &flat[page * kPageSize]);
  }

  UnicodeClass Get(uint32_t code_point) const {
    return classes_[page_start_[code_point / kPageSize] + code_point % kPageSize];
  }

 private:
  template <size_t n>
  static void Fill(std::vector<UnicodeClass>& flat,
                   const CodePointRange (&ranges)[n],
                   UnicodeClass value) {
    for (const CodePointRange& range : ranges) {
      for (uint32_t c = range.first; c <= range.last; ++c) flat[c] = value;
    }
  }

  void AddPage(uint32_t page, const UnicodeClass* classes) {
    for (uint32_t start = 0; start < classes_.size(); start += kPageSize) {
      if (std::equal(classes, classes + kPageSize, &classes_[start])) {
        page_start_[page] = start;
        return;
      }
    }
    page_start_[page] = static_cast<uint32_t>(classes_.size());
    classes_.insert(classes_.end(), classes, classes + kPageSize);
  }

  std::array<uint32_t, kNumPages> page_start_;
  std::vector<UnicodeClass> classes_;
};

}  // namespace

UnicodeClass UnicodeClassOf(uint32_t code_point) {
  static const ClassTable* const table = new ClassTable;
  return code_point < 0x110000 ? table->Get(code_point) : UnicodeClass::kOther;
}

}  // namespace paceline::model
