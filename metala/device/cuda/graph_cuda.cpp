#include "metala/device/cuda/graph.h"

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {

namespace {

// What `work` enqueues, as a graph that the caller destroys.
cudaGraph_t captured(Device device, cudaStreamCaptureMode mode, const std::function<void()>& work) {
  check(cudaSetDevice(device.index), "cuda: choosing the GPU");
  check(cudaStreamBeginCapture(stream(device), mode), "cuda: recording a graph");
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
  return graph;
}

}  // namespace

struct Graph::Recorded {
  cudaGraphExec_t executable = nullptr;
  std::array<std::shared_ptr<void>, 2> workspaces;
};

Graph::Graph(Device device, const std::function<void()>& work)
    : device_(device), recorded_(std::make_unique<Recorded>()) {
  recorded_->workspaces = held_workspaces(device);
  const cudaGraph_t graph = captured(device, cudaStreamCaptureModeThreadLocal, work);
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

void rehearse(Device device, const std::function<void()>& work) {
  const Rehearsal rehearsal(device);
  // Relaxed: scratch memory may grow meanwhile.
  cudaGraphDestroy(captured(device, cudaStreamCaptureModeRelaxed, work));
}

}  // namespace metala::cuda
