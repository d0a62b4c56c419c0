// What the ranks of a group find out together: that they do the same, and that one of them failed.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/distributed/communicator.h"

namespace metala {

// An error that every rank knows of; each has left its communication in order. Rank 0 reports it.
class AgreedError : public Error {
 public:
  AgreedError(const std::string& message, bool misuse) : Error(message), misuse_(misuse) {}
  bool misuse() const { return misuse_; }  // it was a UsageError

 private:
  bool misuse_;
};

// Runs f on every rank. When it throws on any, all throw AgreedError with the message of the first
// rank that failed, which is named unless all failed. Alone, whatever f throws comes through.
void together(Communicator&, const std::function<void()>& f);

// Throws AgreedError on all ranks unless each fact, a name and a value, is the same on all of them:
// "rank 3 has another configuration than rank 0: ... against ...".
using Facts = std::vector<std::pair<std::string, std::string>>;
void require_same(Communicator&, const Facts&);

// A hash of the program that is running.
std::string program_fingerprint();

}  // namespace metala
