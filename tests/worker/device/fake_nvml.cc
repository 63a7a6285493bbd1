// A library with NVML's interface and one GPU, whose state the environment gives: FAKE_NVML_XID is
// the Xid that it reports, FAKE_NVML_LOST makes it lost.
#include <cstdlib>
#include <cstring>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int result) {
  return result == 15 ? "GPU is lost" : result == 6 ? "Not Found" : "another error";
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* address, void** device) {
  static int gpu;
  *device = &gpu;
  return std::strcmp(address, "0000:3B:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* total_free_used) {
  if (std::getenv("FAKE_NVML_LOST") != nullptr) return 15;
  total_free_used[0] = 1000;
  total_free_used[1] = 300;
  total_free_used[2] = 700;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void*, unsigned int* gpu_memory) {
  gpu_memory[0] = 25;
  gpu_memory[1] = 50;
  return 0;
}
int nvmlEventSetCreate(void** set) {
  static int events;
  *set = &events;
  return 0;
}
int nvmlEventSetFree(void*) { return 0; }
int nvmlDeviceRegisterEvents(void*, unsigned long long types, void*) { return types == 8 ? 0 : 3; }
int nvmlEventSetWait_v2(void*, void* data, unsigned int) {
  const char* const xid = std::getenv("FAKE_NVML_XID");
  if (xid == nullptr) return 10;
  struct {
    void* device;
    unsigned long long type;
    unsigned long long data;
    unsigned int instances[2];
  } const event = {nullptr, 8, static_cast<unsigned long long>(std::atoi(xid)), {}};
  std::memcpy(data, &event, sizeof(event));
  return 0;
}

}  // extern "C"
