#include "metala/device/cuda/graph.h"

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {

struct Graph::Recorded {
  cudaGraphExec_t executable = nullptr;
  std::shared_ptr<void> workspace;
};

Graph::Graph(Device device, const std::function<void()>& work)
    : device_(device), recorded_(std::make_unique<Recorded>()) {
  recorded_->workspace = held_workspace(device);
  check(cudaStreamBeginCapture(stream(device), cudaStreamCaptureModeThreadLocal),
        "cuda: recording a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream(device), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream(device), &graph), "cuda: recording a graph");
  const cudaError_t status = cudaGraphInstantiate(&recorded_->executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cuda: making a graph");
}

Graph::~Graph() {
  if (recorded_->executable != nullptr) cudaGraphExecDestroy(recorded_->executable);
}

void Graph::launch() const {
  check(cudaGraphLaunch(recorded_->executable, stream(device_)), "cuda: launching a graph");
}

}  // namespace metala::cuda
