// A queue of work of one device, as everything outside .cu files sees it: a cudaStream_t, or nothing
// in the emulation, where work is done at once. Plain value; any thread.
#ifndef PACELINE_KERNELS_DEVICE_STREAM_H_
#define PACELINE_KERNELS_DEVICE_STREAM_H_

namespace paceline::kernels::device {

using Stream = void*;

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_STREAM_H_
