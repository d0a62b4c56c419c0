// TensorBoard event files: scalars that TensorBoard reads.
//
// A file is a row of records: length, masked CRC-32C of the length, an Event protocol buffer, its
// masked CRC-32C. Format: TensorFlow's record writer and event.proto.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

namespace metala {

// CRC-32C (Castagnoli).
std::uint32_t crc32c(std::string_view bytes);

// One record of the file, from the bytes of an Event.
std::string tensorboard_record(std::string_view event);
// Event bytes: the file's first one, and a scalar.
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value);

// Drops the scalars of steps after `step` from the folder's event files: what a run that was killed
// did after its last checkpoint. A file is cut where it stops being one, as readers do; what does
// not begin as an event file is left alone.
void keep_tensorboard_events_until(const std::string& folder, std::int64_t step);

class TensorBoardWriter {
 public:
  // Creates events.out.tfevents.TIME.HOST.PID in the folder.
  explicit TensorBoardWriter(const std::string& folder);
  void scalar(std::int64_t step, std::string_view tag, double value);
  // Throws Error naming the file when anything since the last flush could not be written.
  void flush();

 private:
  std::string path_;
  std::ofstream out_;
};

}  // namespace metala
