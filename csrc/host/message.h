#pragma once

#include <sstream>
#include <string>

namespace tts::host {

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace tts::host
