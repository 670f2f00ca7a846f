// Prints docs/reference/config.md.
#include <unistd.h>

#include <string>

#include "config/reference.hpp"

int main() {
  const std::string page = mik::config::reference_page();
  const ssize_t written = ::write(STDOUT_FILENO, page.data(), page.size());
  return written == static_cast<ssize_t>(page.size()) ? 0 : 1;
}
