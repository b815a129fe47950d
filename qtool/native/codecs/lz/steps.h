// The steps of least cost that make up the symbols.
#pragma once

#include "codecs/lz/model.h"

namespace qtool::codecs::lz {

struct Step {
  int kind;
  int near;  // which near distance, of kNear
  uint32_t length, distance;
};

// The steps for all[first:].
std::vector<Step> cheapest_steps(const Bytes& all, size_t first);

// Codes a step at a place; state becomes that after it.
template <typename Coder, typename Bit>
void code_step(Coder& coder, Model<Bit>& model, State& state, const uint8_t* all, size_t at,
               const Step& step) {
  model.kind(coder, state, step.kind);
  if (step.kind == kLiteral) {
    const int before = at > 0 ? all[at - 1] : 0;
    const int foretold = state.last != kLiteral ? all[at - state.distances[0]] : -1;
    model.literal(coder, before, foretold, all[at]);
  } else if (step.kind == kNear) {
    model.near_one(coder, state, step.near);
    model.length(coder, kNear, step.near, step.length);
  } else {
    model.length(coder, kFar, 0, step.length);
    model.distance(coder, step.length, step.distance);
  }
  if (step.kind != kLiteral) state.use(step.distance);
  state.take(step.kind);
}

}  // namespace qtool::codecs::lz
