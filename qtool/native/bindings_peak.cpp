// qtool.runtime.peaks' view of measure_peak.
#include <nanobind/nanobind.h>

#include "peak/peak.h"

namespace nb = nanobind;
using namespace nb::literals;

void bind_peak(nb::module_& module) {
  module.def(
      "peak_gmacs",
      [](double seconds) {  // what names of kernels end in -> 1e9 MACs per second of one core
        nb::dict found;
        for (int i = 0; i < qtool::n_peaks(); ++i) {
          const qtool::Peak& peak = qtool::peak(i);
          double rate;
          {
            const nb::gil_scoped_release unlocked;
            rate = qtool::measure_peak(peak, seconds);
          }
          if (rate > 0) found[peak.kernel] = rate;
        }
        return found;
      },
      "seconds"_a);
}
