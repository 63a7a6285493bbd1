// A folder with files like those of /proc and /sys, removed at the end of the test.
#ifndef PACELINE_TESTS_WORKER_DEVICE_FAKE_MACHINE_H_
#define PACELINE_TESTS_WORKER_DEVICE_FAKE_MACHINE_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace paceline::worker {

class FakeMachine {
 public:
  FakeMachine() {
    std::string name = std::filesystem::temp_directory_path() / "paceline_machine_XXXXXX";
    root_ = mkdtemp(name.data());
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  FakeMachine(const FakeMachine&) = delete;
  FakeMachine& operator=(const FakeMachine&) = delete;

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_WORKER_DEVICE_FAKE_MACHINE_H_
