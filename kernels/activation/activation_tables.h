// The kernels of the active instruction set. Stateless. Private to kernels/.
#ifndef PACELINE_KERNELS_ACTIVATION_ACTIVATION_TABLES_H_
#define PACELINE_KERNELS_ACTIVATION_ACTIVATION_TABLES_H_

#include "kernels/activation/activation_kernels.h"
#include "kernels/dispatch.h"

namespace paceline::kernels {

inline const ActivationKernels& ActiveActivationKernels() {
  return Select(IsaTables<ActivationKernels>{&kActivationPortable, &kActivationAvx2, &kActivationAvx512});
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_ACTIVATION_TABLES_H_
