// Writing files that torch.load reads, also with weights_only=True.
#pragma once

#include <map>
#include <string>

#include "metala/base/tensor.h"

namespace metala {

// A zip file of a dictionary of tensors in order of their names, pickled by protocol 2, every
// storage aligned to 64 bytes; atomic (file.h). Names of the same memory share a storage. Throws
// Error for tensors in blocks, which PyTorch has no type for.
void write_torch(const std::string& path, const std::map<std::string, Tensor>& tensors);

}  // namespace metala
