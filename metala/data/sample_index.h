// SampleIndex: which tokens make training sample i, exactly as GPT-NeoX's datasets have it.
//
// Packed, with tokens = sum of the documents' lengths and samples of T tokens plus one label:
//
//   epochs = least e with (e tokens - 1) div T >= samples wanted, at least 2
//   order  = all documents, epochs times over, shuffled as one row (epochs mix)
//   M      = (epochs tokens - 1) div T samples cut from that row, end to end: sample m begins at
//   its
//            token m T and has T + 1 tokens, so it shares one with the next
//   sample i of the run is cut number visits[i], visits a shuffle of 0..M-1
//
// One generator seeded once serves both shuffles, in this order. GPT-NeoX counts one sample less
// than there are (M - 1) and wraps around behind it; so do we.
//
// Two other packings keep documents whole; M is the number of samples wanted, `visits` is drawn
// first, and a sample also holds the first token of the document after its own:
//   until overflow  documents in a shuffled order, shuffled anew each time they have all been read;
//                   a sample takes them until the next would make it longer than T + 1
//   unpacked        a document each, in their own order, over and over
// What is longer than T + 1 is cut off, or left out unless documents may be chopped; documents that
// `useless` names are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace metala {

enum class Packing { packed, until_overflow, unpacked };
Packing packing_named(const std::string&);  // GPT-NeoX's pack_impl; throws Error for another

struct SampleOptions {
  std::int64_t length = 2048;  // T
  std::int64_t wanted = 0;     // samples; what is read more often needs more epochs
  std::int64_t epochs = 0;     // instead of `wanted`, if positive
  std::uint32_t seed = 1234;
  bool shuffle = true;
  Packing packing = Packing::packed;
  bool chopped = true;  // of the other packings: documents longer than a sample are cut off
};

// Lengths of documents by their numbers.
using LengthOf = std::function<std::int64_t(std::int64_t)>;

struct PackedSize {
  std::int64_t epochs = 0, samples = 0;  // samples: M
};

// Of packed samples. Throws Error as SampleIndex does.
PackedSize packed_size(std::int64_t first, std::int64_t last, const LengthOf&,
                       const SampleOptions&);

class SampleIndex {
 public:
  // A place in `order`: the document's position there, and a token of it.
  struct Place {
    std::uint32_t document = 0, offset = 0;
    bool operator==(const Place&) const = default;
  };

  // Documents first to last - 1, of the lengths that `length_of` tells. Throws Error when they hold
  // no tokens, or make fewer than two samples in the epochs asked for.
  SampleIndex(std::int64_t first, std::int64_t last, const LengthOf&, const SampleOptions&,
              const std::function<bool(std::int64_t)>& useless = {});

  // The three arrays, wherever they lie.
  struct Maps {
    std::span<const std::uint32_t> order;
    std::span<const Place> places;  // M + 1
    std::span<const std::uint32_t> visits;
    std::shared_ptr<const void> owner;  // keeps them alive
  };
  // Of maps made before (index_maps.h).
  SampleIndex(std::int64_t length, std::int64_t epochs, Maps maps)
      : length_(length), epochs_(epochs), maps_(std::move(maps)) {}

  std::int64_t epochs() const { return epochs_; }
  std::int64_t size() const { return static_cast<std::int64_t>(maps_.visits.size()) - 1; }
  std::int64_t length() const { return length_; }

  // Of sample i (modulo size): where its first token and its last one, the label of the one before,
  // lie. Samples of whole documents may end earlier, at T + 1 tokens or with the last document.
  Place first(std::int64_t sample) const { return maps_.places[visit(sample)]; }
  Place last(std::int64_t sample) const { return maps_.places[visit(sample) + 1]; }
  std::int64_t document(std::int64_t position) const {
    return maps_.order[static_cast<std::size_t>(position)];
  }

  std::int64_t documents() const {  // positions
    return static_cast<std::int64_t>(maps_.order.size());
  }
  const Maps& maps() const { return maps_; }

 private:
  std::size_t visit(std::int64_t sample) const {
    return maps_.visits[static_cast<std::size_t>(sample % size())];
  }
  std::int64_t length_, epochs_ = 0;
  Maps maps_;
};

}  // namespace metala
