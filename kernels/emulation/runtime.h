// What tests set of the emulated device. Any thread.
#ifndef PACELINE_KERNELS_EMULATION_RUNTIME_H_
#define PACELINE_KERNELS_EMULATION_RUNTIME_H_

#include <cstdint>

namespace paceline::kernels::emulation {

// Devices that there seem to be, 1 to begin with; they have all they have in common.
void SetNumDevices(int32_t count);
// Their memory, 1 GiB to begin with. Fewer bytes than are in use leave none free.
void SetMemoryBytes(int64_t bytes);
// Of device memory that is allocated now.
int64_t AllocatedBytes();
// Graphs that were started, by all threads.
int64_t NumGraphStarts();
// Streams that are made from now on have a thread each that does their work, later; false: it is
// done at once, by whom it comes from.
void SetStreamsAsync(bool async);
// The next time memory of another process is mapped, it is out of reach.
void FailNextMap();
// The device fails for good, as after a kernel that traps: waits and copies are Unavailable.
void BreakDevice();

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_RUNTIME_H_
