// Arithmetic that C++ leaves undefined fails the launch: the compiler was asked to check it, and calls these in the
// place of its own library. An index that passes 2^31 is the case in mind.
#ifndef __SANITIZE_ADDRESS__
#include <cstdlib>

#include "runtime.h"

namespace {

// What the compiler's description of a check starts with.
struct Place {
  const char* file;
  uint32_t line, column;
};

[[noreturn]] void undefined(const Place* place, const char* what) {
  const std::string file = place->file == nullptr ? "?" : place->file;
  const std::string text =
      std::string(what) + " at " + file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(place->line);
  if (simt::current != nullptr) simt::fail(text);
  fprintf(stderr, "%s, in a launcher\n", text.c_str());
  abort();
}

}  // namespace

#define UNDEFINED(handler, what) \
  void __ubsan_handle_##handler##_abort(const Place* place) { undefined(place, what); }
extern "C" {
UNDEFINED(add_overflow, "integer overflow")
UNDEFINED(sub_overflow, "integer overflow")
UNDEFINED(mul_overflow, "integer overflow")
UNDEFINED(negate_overflow, "integer overflow")
UNDEFINED(divrem_overflow, "division by zero or overflow")
UNDEFINED(shift_out_of_bounds, "shift by a negative number or too many bits")
UNDEFINED(out_of_bounds, "index outside of an array")
UNDEFINED(float_cast_overflow, "conversion to an integer that cannot hold the number")
}
#endif
