// The codecs' native parts: checks lengths, releases the GIL, encodes and decodes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "codecs/huffman/huffman.h"
#include "codecs/huffman/lengths.h"
#include "codecs/layout/layout.h"
#include "codecs/log2.h"
#include "codecs/lz/lz.h"
#include "codecs/mix/mix.h"
#include "codecs/rans/rans.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace qtool::codecs;
using In = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const uint64_t, nb::shape<256>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

Reader reader(const In& data) { return {data.data(), data.data() + data.size()}; }

nb::bytes bytes_of(const Bytes& data) {
  return nb::bytes(reinterpret_cast<const char*>(data.data()), data.size());
}

// Makes bytes without the GIL.
template <typename Make>
nb::bytes made(const Make& make) {
  Bytes out;
  {
    const nb::gil_scoped_release unlocked;
    make(out);
  }
  return bytes_of(out);
}

nb::object counts_of(const In& data) {
  auto* counts = new uint64_t[1][256];
  const nb::capsule owner(counts, [](void* p) noexcept { delete[] static_cast<uint64_t*>(p); });
  {
    const nb::gil_scoped_release unlocked;
    count_bytes(data.data(), data.size(), counts[0]);
  }
  return nb::cast(nb::ndarray<nb::numpy, uint64_t>(counts[0], {256}, owner));
}

void copy_counts(const Counts& counts, uint64_t (&copy)[256]) {
  uint64_t sum = 0;
  for (size_t s = 0; s < 256; ++s) {
    copy[s] = counts.data()[s];
    require(copy[s] < uint64_t{1} << 40, "a count is out of range");
    sum += copy[s];
  }
  require(sum > 0, "there are no symbols");
}

nb::bytes rans_table(const Counts& counts) {
  uint64_t copy[256];
  copy_counts(counts, copy);
  return made([&](Bytes& out) { write_table(best_table(copy), out); });
}

RansTable table_of(const In& bytes) {
  RansTable table;
  require(read_table(reader(bytes), table), "the frequency table is impossible");
  return table;
}

// Bytes, rounded up, that symbols of these counts take under a table; None where it lacks one.
nb::object rans_cost(const Counts& counts, const In& table) {
  uint64_t copy[256];
  copy_counts(counts, copy);
  const uint64_t cost = stream_cost(copy, table_of(table));
  if (cost == UINT64_MAX) return nb::none();
  return nb::int_((cost + (1u << 19) - 1) >> 19);
}

// The same under each of several tables.
nb::list rans_costs(const Counts& counts, const nb::list& tables) {
  uint64_t copy[256];
  copy_counts(counts, copy);
  nb::list costs;
  for (const nb::handle item : tables) {
    const auto bytes = nb::cast<nb::bytes>(item);
    const auto* const data = static_cast<const uint8_t*>(bytes.data());
    RansTable table;
    require(read_table({data, data + bytes.size()}, table), "the frequency table is impossible");
    const uint64_t cost = stream_cost(copy, table);
    if (cost == UINT64_MAX) {
      costs.append(nb::none());
    } else {
      costs.append((cost + (1u << 19) - 1) >> 19);
    }
  }
  return costs;
}

// The order-0 entropy of all bytes, in units of 2**-16 bits.
uint64_t entropy_of(const In& data) {
  uint64_t counts[256], total = 0;
  const nb::gil_scoped_release unlocked;
  count_bytes(data.data(), data.size(), counts);
  for (uint64_t count : counts) {
    if (count > 0) total += count * (log2_q16(data.size()) - log2_q16(count));
  }
  return total;
}

nb::bytes rans_encode_bytes(const In& symbols, const In& table) {
  const RansTable read = table_of(table);
  uint64_t counts[256];
  count_bytes(symbols.data(), symbols.size(), counts);
  require(symbols.size() > 0 && stream_cost(counts, read) != UINT64_MAX,
          "the table lacks a symbol");
  return made([&](Bytes& out) { rans_encode(symbols.data(), symbols.size(), read, out); });
}

bool rans_decode_bytes(const In& data, const In& table, const Out& out, const std::string& isa) {
  RansTable read;
  const nb::gil_scoped_release unlocked;
  return read_table(reader(table), read) &&
         rans_decode(reader(data), read, out.data(), out.size(), isa.c_str());
}

nb::tuple huffman_plan(const Counts& counts) {
  uint64_t copy[256];
  copy_counts(counts, copy);
  uint8_t lengths[256];
  code_lengths(copy, lengths);
  return nb::make_tuple(nb::bytes(reinterpret_cast<const char*>(lengths), 256),
                        huffman_size(copy, lengths));
}

nb::bytes huffman_encode_bytes(const In& symbols, const In& lengths) {
  require(lengths.size() == 256 && symbols.size() > 0, "256 code lengths and symbols are needed");
  uint8_t copy[256];
  std::copy(lengths.data(), lengths.data() + 256, copy);
  Bytes written;
  write_lengths(copy, written);
  Reader again{written.data(), written.data() + written.size()};
  require(read_lengths(again, copy), "the code lengths are impossible");
  uint64_t counts[256];
  count_bytes(symbols.data(), symbols.size(), counts);
  for (int s = 0; s < 256; ++s) require(counts[s] == 0 || copy[s] > 0, "a symbol has no code");
  return made([&](Bytes& out) { huffman_encode(symbols.data(), symbols.size(), copy, out); });
}

bool huffman_decode_bytes(const In& data, const Out& out) {
  const nb::gil_scoped_release unlocked;
  return huffman_decode(reader(data), out.data(), out.size());
}

nb::bytes mix_encode_bytes(const In& symbols, bool text, int zero, uint64_t step, uint64_t row) {
  require(symbols.size() > 0 && symbols.size() <= kMostMixed, "too many symbols, or none");
  require(step > 0 && row > 0 && step < uint64_t{1} << 48 && row < uint64_t{1} << 48 && zero >= 0 &&
              zero < 256,
          "the layout is out of range");
  const MixLayout layout = {static_cast<uint8_t>(zero), step, row};
  return made([&](Bytes& out) {
    mix_encode(symbols.data(), symbols.size(), text ? MixModel::kText : MixModel::kValues, layout,
               out);
  });
}

bool mix_decode_bytes(const In& data, const Out& out) {
  require(out.size() <= kMostMixed, "too many symbols");
  const nb::gil_scoped_release unlocked;
  return mix_decode(reader(data), out.data(), out.size());
}

nb::bytes lz_encode_bytes(const In& symbols, const In& dictionary) {
  require(symbols.size() > 0 && symbols.size() <= kMostLz, "too many symbols, or none");
  require(dictionary.size() <= kMostLzDictionary, "the dictionary is too long");
  return made([&](Bytes& out) {
    lz_encode(symbols.data(), symbols.size(), {dictionary.data(), dictionary.size()}, out);
  });
}

bool lz_decode_bytes(const In& data, const In& dictionary, const Out& out) {
  require(dictionary.size() <= kMostLzDictionary, "the dictionary is too long");
  const nb::gil_scoped_release unlocked;
  return lz_decode(reader(data), {dictionary.data(), dictionary.size()}, out.data(), out.size());
}

size_t elements(size_t size, int width) {
  require(width == 1 || width == 2 || width == 4 || width == 8, "width is not 1, 2, 4 or 8");
  require(size % static_cast<size_t>(width) == 0, "the size is no multiple of the width");
  return size / static_cast<size_t>(width);
}

void split_bytes(const In& values, int width, int transform, const Out& planes) {
  require(planes.size() == values.size(), "sizes differ");
  require(transform >= 0 && transform < kTransforms, "the transform is unknown");
  const size_t n = elements(values.size(), width);
  const nb::gil_scoped_release unlocked;
  split_planes(values.data(), n, width, static_cast<Transform>(transform), planes.data());
}

void join_bytes(const In& planes, int width, int transform, const Out& values) {
  require(planes.size() == values.size(), "sizes differ");
  require(transform >= 0 && transform < kTransforms, "the transform is unknown");
  const size_t n = elements(values.size(), width);
  const nb::gil_scoped_release unlocked;
  join_planes(planes.data(), n, width, static_cast<Transform>(transform), values.data());
}

nb::bytes codebook_of(const In& values, int width, bool floats, const Out& indices) {
  const size_t n = elements(values.size(), width);
  require(indices.size() == n, "there must be an index for each value");
  return made(
      [&](Bytes& out) { out = find_codebook(values.data(), n, width, floats, indices.data()); });
}

bool look_up_bytes(const In& indices, int width, const In& codebook, const Out& values) {
  const size_t n = elements(values.size(), width), k = elements(codebook.size(), width);
  require(indices.size() == n && k <= 256, "sizes differ");
  const nb::gil_scoped_release unlocked;
  return look_up(indices.data(), n, width, codebook.data(), k, values.data());
}

size_t nonzero_count(const In& values, int width) {
  const size_t n = elements(values.size(), width);
  const nb::gil_scoped_release unlocked;
  return count_nonzero(values.data(), n, width);
}

nb::bytes nonzero_of(const In& values, int width) {
  const size_t n = elements(values.size(), width);
  return made([&](Bytes& out) {
    out.resize(count_nonzero(values.data(), n, width) * static_cast<size_t>(width));
    take_nonzero(values.data(), n, width, out.data());
  });
}

nb::bytes mask_of(const In& values, int width) {
  const size_t n = elements(values.size(), width);
  return made([&](Bytes& out) {
    out.resize((n + 7) / 8);
    write_mask(values.data(), n, width, out.data());
  });
}

nb::bytes gaps_of(const In& values, int width, int most) {
  require(most > 0 && most < 256, "gaps are bytes");
  const size_t n = elements(values.size(), width);
  return made([&](Bytes& out) { write_gaps(values.data(), n, width, most, out); });
}

// Places nonzero values by a mask (most 0) or by gaps.
bool spread_bytes(const In& places, int most, const In& nonzero, int width, const Out& values) {
  const size_t n = elements(values.size(), width), n_nonzero = elements(nonzero.size(), width);
  require(most >= 0 && most < 256 && (most > 0 || places.size() == (n + 7) / 8),
          "the mask has not a bit for each value");
  const nb::gil_scoped_release unlocked;
  if (most == 0) {
    return from_mask(places.data(), n, width, nonzero.data(), n_nonzero, values.data());
  }
  return from_gaps(places.data(), places.size(), n, width, most, nonzero.data(), n_nonzero,
                   values.data());
}

nb::bytes packed_bits(const In& symbols, int bits) {
  require(bits > 0 && bits < 8, "bits are 1 to 7");
  return made([&](Bytes& out) {
    out.resize((symbols.size() * static_cast<size_t>(bits) + 7) / 8);
    pack_bits(symbols.data(), symbols.size(), bits, out.data());
  });
}

bool unpacked_bits(const In& packed, int bits, const Out& symbols) {
  require(bits > 0 && bits < 8, "bits are 1 to 7");
  require(packed.size() == (symbols.size() * static_cast<size_t>(bits) + 7) / 8, "sizes differ");
  const nb::gil_scoped_release unlocked;
  return unpack_bits(packed.data(), symbols.size(), bits, symbols.data());
}

}  // namespace

void bind_codecs(nb::module_& module) {
  module.def("count_bytes", &counts_of, "data"_a.noconvert());
  module.def("entropy", &entropy_of, "data"_a.noconvert());
  module.def("rans_lanes", [](size_t n) { return lanes_for(n); });
  module.def("rans_table", &rans_table, "counts"_a.noconvert());
  module.def("rans_cost", &rans_cost, "counts"_a.noconvert(), "table"_a.noconvert());
  module.def("rans_costs", &rans_costs, "counts"_a.noconvert(), "tables"_a);
  module.def("rans_encode", &rans_encode_bytes, "symbols"_a.noconvert(), "table"_a.noconvert());
  module.def("rans_decode", &rans_decode_bytes, "data"_a.noconvert(), "table"_a.noconvert(),
             "out"_a.noconvert(), "isa"_a = "");
  module.def("huffman_plan", &huffman_plan, "counts"_a.noconvert());
  module.def("huffman_encode", &huffman_encode_bytes, "symbols"_a.noconvert(),
             "lengths"_a.noconvert());
  module.def("huffman_decode", &huffman_decode_bytes, "data"_a.noconvert(), "out"_a.noconvert());
  module.def("mix_encode", &mix_encode_bytes, "symbols"_a.noconvert(), "text"_a, "zero"_a = 0,
             "step"_a = 1, "row"_a = 1);
  module.def("mix_decode", &mix_decode_bytes, "data"_a.noconvert(), "out"_a.noconvert());
  module.def("lz_encode", &lz_encode_bytes, "symbols"_a.noconvert(), "dictionary"_a.noconvert());
  module.def("lz_decode", &lz_decode_bytes, "data"_a.noconvert(), "dictionary"_a.noconvert(),
             "out"_a.noconvert());
  module.def("split_planes", &split_bytes, "values"_a.noconvert(), "width"_a, "transform"_a,
             "planes"_a.noconvert());
  module.def("join_planes", &join_bytes, "planes"_a.noconvert(), "width"_a, "transform"_a,
             "values"_a.noconvert());
  module.def("find_codebook", &codebook_of, "values"_a.noconvert(), "width"_a, "floats"_a,
             "indices"_a.noconvert());
  module.def("look_up", &look_up_bytes, "indices"_a.noconvert(), "width"_a,
             "codebook"_a.noconvert(), "values"_a.noconvert());
  module.def("count_nonzero", &nonzero_count, "values"_a.noconvert(), "width"_a);
  module.def("take_nonzero", &nonzero_of, "values"_a.noconvert(), "width"_a);
  module.def("write_mask", &mask_of, "values"_a.noconvert(), "width"_a);
  module.def("write_gaps", &gaps_of, "values"_a.noconvert(), "width"_a, "most"_a);
  module.def("spread", &spread_bytes, "places"_a.noconvert(), "most"_a, "nonzero"_a.noconvert(),
             "width"_a, "values"_a.noconvert());
  module.def("pack_bits", &packed_bits, "symbols"_a.noconvert(), "bits"_a);
  module.def("unpack_bits", &unpacked_bits, "packed"_a.noconvert(), "bits"_a,
             "symbols"_a.noconvert());
}
