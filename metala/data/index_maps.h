// IndexMaps: the three arrays of a large packed SampleIndex, kept beside the data as GPT-NeoX keeps
// them, so that a start takes seconds and the ranks of a machine share their memory.
//
//   NAME_doc_idx.npy      i4 [epochs * documents]   the order
//   NAME_sample_idx.npy   i4 [M + 1, 2]             the places
//   NAME_shuffle_idx.npy  u4 [M]                    the visits
//   NAME = PREFIX_PART_indexmap_{samples wanted}ns_{T}sl_{seed}s_packedpi_ac
//
// PART is train, valid, test; train_0, train_1, ... of several datasets. Names and contents are
// GPT-NeoX's, so either program reads what the other has written. The name does not say which
// documents a split gave to the part, nor which data lay at PREFIX at the time: what is read is
// checked against both, and made anew where it does not fit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "metala/data/sample_index.h"

namespace metala {

struct IndexMapOptions {
  std::string part;    // empty: nothing is read or written
  bool write = false;  // by one rank; the others read what it wrote
  // Documents read and samples below which maps are made quicker than they are checked.
  std::int64_t least = std::int64_t{1} << 24;
  std::function<void(const std::string&)> notice = {};  // told what is made, and why
};

// The index of documents first to last - 1 of the dataset at `prefix`: read, if it is kept there
// and fits; else made, and kept if it is large enough. That it cannot be kept is a notice, no
// error.
SampleIndex sample_index(const std::string& prefix, std::int64_t first, std::int64_t last,
                         const LengthOf&, const SampleOptions&,
                         const std::function<bool(std::int64_t)>& useless, const IndexMapOptions&);

}  // namespace metala
