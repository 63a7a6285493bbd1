// An array in the emulation's device memory. Single-threaded.
#ifndef PACELINE_TESTS_KERNELS_EMULATION_DEVICE_ARRAY_H_
#define PACELINE_TESTS_KERNELS_EMULATION_DEVICE_ARRAY_H_

#include <algorithm>
#include <vector>

#include "kernels/emulation/memory.h"

namespace paceline::kernels {

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count)
      : count_(count), data_(static_cast<T*>(emulation::Allocate(bytes()))) {}
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), data_);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { emulation::Free(data_, bytes()); }

  T* data() { return data_; }
  const T& operator[](int64_t i) const { return data_[i]; }
  T& operator[](int64_t i) { return data_[i]; }
  std::vector<T> ToVector() const { return {data_, data_ + count_}; }

 private:
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  int64_t count_;
  T* data_;
};

}  // namespace paceline::kernels

#endif  // PACELINE_TESTS_KERNELS_EMULATION_DEVICE_ARRAY_H_
