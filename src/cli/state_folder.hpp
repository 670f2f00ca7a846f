// The state folder: where it is, and what lies in it.
#pragma once

#include <string>

#include "base/result.hpp"
#include "config/build.hpp"

namespace mik::cli {

// MIK_HOME, else /var/lib/mik where it is ours to write, else ~/.mik. Absolute. Changes nothing.
base::Result<std::string> state_dir(const config::Environment& environment);

// Makes the folder, and modules/, data/, cache/ and logs/ in it, for the owner alone; those that
// are there are left as they are. What cannot be made is not said here: who needs it says what it
// lacks.
void make_state_dir(const std::string& path);

}  // namespace mik::cli
