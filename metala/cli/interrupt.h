// Ctrl-C, SIGTERM and SIGUSR1 as a question that long jobs ask between two steps.
#pragma once

namespace metala::cli {

void catch_interrupts();
bool interrupted();

}  // namespace metala::cli
