// Python module tts_kernels._host: numpy int32 arrays in and out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>

#include "host/forest.h"
#include "host/message.h"
#include "host/planner.h"

namespace py = pybind11;

namespace tts::host {
namespace {

constexpr int64_t kMinInt32 = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

template <typename T>
Ints narrow(const char* op, const char* argument, const py::array& array) {
  const auto typed = py::array_t<T, py::array::forcecast>::ensure(array);
  const auto values = typed.template unchecked<1>();
  Ints out(values.shape(0));
  for (py::ssize_t i = 0; i < values.shape(0); ++i) {
    const bool fits = values(i) <= static_cast<T>(kMaxInt32) && (std::is_unsigned_v<T> || values(i) >= T(kMinInt32));
    if (!fits) throw py::value_error(message(op, ": ", argument, "[", i, "] must fit int32, got ", values(i)));
    out[i] = static_cast<int32_t>(values(i));
  }
  return out;
}

// Any 1-D sequence of integers that int32 can hold.
Ints read_ints(const char* op, const char* argument, const py::object& value) {
  const py::array array = py::array::ensure(value);
  if (!array) {
    const std::string got = py::str(py::type::of(value).attr("__name__"));
    throw py::type_error(message(op, ": ", argument, " must be a 1-D array of integers, got ", got));
  }
  if (array.ndim() != 1) {
    const std::string got = py::str(array.attr("shape"));
    throw py::value_error(message(op, ": ", argument, " must have 1 dimension, got shape ", got));
  }
  // numpy makes an empty list float64.
  if (array.size() == 0) return {};
  const char kind = array.dtype().kind();
  if (kind != 'i' && kind != 'u') {
    const std::string got = py::str(array.dtype());
    throw py::type_error(message(op, ": ", argument, " must be integers, got ", got));
  }
  return kind == 'i' ? narrow<int64_t>(op, argument, array) : narrow<uint64_t>(op, argument, array);
}

int32_t read_int(const char* op, const char* argument, int64_t value) {
  if (value >= kMinInt32 && value <= kMaxInt32) return static_cast<int32_t>(value);
  throw py::value_error(message(op, ": ", argument, " must fit int32, got ", value));
}

py::array_t<int32_t> to_array(const Ints& values) {
  return py::array_t<int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

// A view of the plan's own memory, which it keeps alive. Writable, because torch.from_numpy warns about others.
template <typename Row>
py::array_t<int32_t> view(const std::vector<Row>& rows, const py::object& owner) {
  constexpr py::ssize_t kColumns = sizeof(Row) / sizeof(int32_t);
  std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(rows.size())};
  if (kColumns > 1) shape.push_back(kColumns);
  return py::array_t<int32_t>(shape, reinterpret_cast<const int32_t*>(rows.data()), owner);
}

template <typename Row, std::vector<Row> Plan::*kMember>
py::array_t<int32_t> plan_view(const py::object& self) {
  return view(self.cast<const Plan&>().*kMember, self);
}

const PageReads& page_reads(const py::object& plan) {
  static const PageReads kNone({}, {}, {}, 1);
  const Plan& self = plan.cast<const Plan&>();
  return self.page_reads ? *self.page_reads : kNone;
}

std::unique_ptr<Plan> make_plan(Forest& forest, const py::object& leaves, const py::object& counts, int64_t growth,
                                int64_t tile_rows, int64_t split_tokens, bool invariant, bool page_reads,
                                const Costs& costs) {
  const char* op = "make_plan";
  const UnitOptions options{forest.page_size(),
                            read_int(op, "growth", growth),
                            read_int(op, "tile_rows", tile_rows),
                            read_int(op, "split_tokens", split_tokens),
                            invariant,
                            page_reads};
  return std::make_unique<Plan>(forest, read_ints(op, "leaves", leaves), read_ints(op, "counts", counts), options,
                                costs);
}

py::tuple fork(Forest& forest, const py::object& nodes, const py::object& widths, bool keep) {
  const ForkResult result = forest.fork(read_ints("fork", "nodes", nodes), read_ints("fork", "widths", widths), keep);
  return py::make_tuple(to_array(result.children), to_array(result.copy_src), to_array(result.copy_dst));
}

void bind_errors(py::module_& module) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> out_of_pages;
  out_of_pages.call_once_and_store_result(
      [&] { return py::exception<OutOfPages>(module, "OutOfPages", PyExc_RuntimeError); });
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const OutOfPages& error) {
      const py::object type = out_of_pages.get_stored();
      const py::object instance = type(error.what());
      instance.attr("wanted") = error.wanted;
      instance.attr("free") = error.free;
      py::set_error(type, instance);
    }
  });
}

void bind_mutators(py::class_<Forest>& forest) {
  forest.def(
      "add_roots", [](Forest& self, int64_t n) { return to_array(self.add_roots(n)); }, py::arg("n"),
      "Returns n empty held roots, int32 [n].");
  forest.def(
      "reserve",
      [](Forest& self, const py::object& nodes, const py::object& counts) {
        self.reserve(read_ints("reserve", "nodes", nodes), read_ints("reserve", "counts", counts));
      },
      py::arg("nodes"), py::arg("counts"), "Makes room for counts[i] more tokens in nodes[i].");
  forest.def(
      "append",
      [](Forest& self, const py::object& nodes, const py::object& counts) {
        return to_array(self.append(read_ints("append", "nodes", nodes), read_ints("append", "counts", counts)));
      },
      py::arg("nodes"), py::arg("counts"),
      "Adds counts[i] tokens to nodes[i]. Returns their slots (page * page_size + offset), int32 [sum(counts)].");
  forest.def("fork", &fork, py::arg("nodes"), py::arg("widths"), py::arg("keep") = false,
             "Returns (children [sum(widths)], copy_src [c], copy_dst [c]), int32; the caller copies the pages.\n\n"
             "keep=False drops the parents' hold; the last child of each takes over its partial page and its reserve.\n"
             "keep=True leaves the parent its partial page, so that it can be forked again, and returns its reserve.");
  forest.def(
      "release", [](Forest& self, const py::object& nodes) { self.release(read_ints("release", "nodes", nodes)); },
      py::arg("nodes"),
      "Drops the hold. A node with neither hold nor children is freed, then its parent, and so on; one with neither\n"
      "hold nor a second child becomes part of its child.");
  forest.def(
      "truncate",
      [](Forest& self, const py::object& nodes, const py::object& counts) {
        self.truncate(read_ints("truncate", "nodes", nodes), read_ints("truncate", "counts", counts));
      },
      py::arg("nodes"), py::arg("counts"),
      "Takes the last counts[i] tokens of nodes[i] back, with their pages and the reserve: at most those behind the\n"
      "end of its parent, the last node above that is held or has more children.");
}

void bind_queries(py::class_<Forest>& forest) {
  forest.def(
      "length",
      [](const Forest& self, const py::object& nodes) {
        return to_array(self.lengths(read_ints("length", "nodes", nodes)));
      },
      py::arg("nodes"), "Path lengths in tokens, int32 [n].");
  const auto per_node = [&](const char* op, auto read, const char* doc) {
    forest.def(
        op, [op, read](const Forest& self, int64_t node) { return read(self.node(op, node)); }, py::arg("node"), doc);
  };
  per_node(
      "parent", [](const Node& n) { return n.parent == nullptr ? -1 : n.parent->id; },
      "Id of the last node above that is held or has more children, -1 for none.");
  per_node("num_children", [](const Node& n) { return n.num_children; }, "Live children.");
  per_node("is_held", [](const Node& n) { return n.held; }, "Whether the node may be appended to, forked or released.");
  per_node("base", [](const Node& n) { return n.base; }, "Path position where the node's own pages start.");
  forest.def(
      "page_table",
      [](const Forest& self, int64_t id) { return to_array(self.page_table(self.node("page_table", id))); },
      py::arg("node"),
      "Pages of the whole path, int32 [pages]. A node that is not held has no partial page: its last full one ends "
      "it.");
  forest.def("check", &Forest::check, "Recomputes all counts from scratch; RuntimeError on the first inconsistency.");
  forest.def_property_readonly("num_pages", &Forest::num_pages);
  forest.def_property_readonly("page_size", &Forest::page_size);
  forest.def_property_readonly("free_pages", &Forest::free_pages);
  forest.def_property_readonly("page_stride", &Forest::page_stride, "Page ids are multiples of it.");
  forest.def_property_readonly("used_pages", &Forest::used_pages);
  forest.def_property_readonly("peak_pages", &Forest::peak_pages, "Most pages ever in use.");
  forest.def_property_readonly("num_nodes", &Forest::num_nodes, "Live nodes.");
  forest.def_property_readonly("num_held", &Forest::num_held, "Held nodes.");
  forest.def_property_readonly("version", &Forest::version, "Grows with every add_roots, fork, release and truncate.");
}

void bind_plan(py::module_& module) {
  py::class_<Plan> plan(module, "Plan", "See tts_kernels.plan.Plan. The arrays are views: update() writes into them.");
  plan.def_property_readonly("units", &plan_view<Unit, &Plan::units>);
  plan.def_property_readonly("runs", &plan_view<Run, &Plan::runs>);
  plan.def_property_readonly("pages", &plan_view<int32_t, &Plan::pages>);
  plan.def_property_readonly("row_pos", &plan_view<int32_t, &Plan::row_pos>);
  plan.def_property_readonly("join_ptr", &plan_view<int32_t, &Plan::join_ptr>);
  plan.def_property_readonly("join_slots", &plan_view<int32_t, &Plan::join_slots>);
  plan.def_property_readonly("segments", &plan_view<Run, &Plan::segments>);
  plan.def_property_readonly("reads", [](const py::object& self) { return view(page_reads(self).reads, self); });
  plan.def_property_readonly("unit_reads", [](const py::object& self) { return view(page_reads(self).ranges, self); });
  plan.def_readonly("num_slots", &Plan::num_slots);
  plan.def_readonly("page_size", &Plan::page_size);
  plan.def_property_readonly("num_rows", [](const Plan& self) { return self.row_pos.size(); });
  plan.def("update", &Plan::update, py::arg("forest"), "After appends to its leaves. Returns whether pages changed.");
  plan.def_readonly("ns", &Plan::ns, "Time of the call, as the cost model has it.");
  plan.def_readonly("bytes", &Plan::bytes, "Bytes that all units request, as the cost model has it.");
  module.def("make_plan", &make_plan, py::arg("forest"), py::arg("leaves"), py::arg("counts"), py::arg("growth"),
             py::arg("tile_rows"), py::arg("split_tokens"), py::arg("invariant"), py::arg("page_reads"),
             py::arg("costs"), py::keep_alive<0, 1>());
}

void bind_costs(py::module_& module) {
  py::class_<Costs>(module, "Costs", "See tts_kernels.processors.")
      .def(py::init<>())
      .def_readwrite("group", &Costs::group)
      .def_readwrite("kv_heads", &Costs::kv_heads)
      .def_readwrite("kv_bytes", &Costs::kv_bytes)
      .def_readwrite("q_bytes", &Costs::q_bytes)
      .def_readwrite("part_bytes", &Costs::part_bytes)
      .def_readwrite("flops", &Costs::flops)
      .def_readwrite("processors", &Costs::processors)
      .def_readwrite("ns_per_byte", &Costs::ns_per_byte)
      .def_readwrite("ns_per_flop", &Costs::ns_per_flop)
      .def_readwrite("unit_ns", &Costs::unit_ns)
      .def_readwrite("memory_bytes_per_ns", &Costs::memory_bytes_per_ns)
      .def_readwrite("tolerance", &Costs::tolerance)
      .def_readwrite("tile", &Costs::tile)
      .def_readwrite("whole_tiles", &Costs::whole_tiles)
      .def_readwrite("step", &Costs::step);
}

}  // namespace
}  // namespace tts::host

PYBIND11_MODULE(_host, module) {
  using namespace tts::host;
  module.doc() = "Page table, forest and planner. Integers only, no tensors.";
  bind_errors(module);
  py::class_<Frames, std::shared_ptr<Frames>>(module, "Frames", "Memory for pages that several forests share.")
      .def(py::init<int64_t>(), py::arg("count"))
      .def_property_readonly("count", &Frames::count)
      .def_property_readonly("num_free", [](const Frames& self) { return self.free().size(); })
      .def_property_readonly("peak", &Frames::peak, "Most frames ever in use, by all forests together.");
  py::class_<Forest> forest(module, "Forest", "Pages and nodes of many trees over one pool of page ids.");
  forest.def(py::init<int64_t, int64_t>(), py::arg("num_pages"), py::arg("page_size"));
  forest.def(py::init<std::shared_ptr<Frames>, int64_t, int64_t>(), py::arg("frames").none(false), py::arg("page_size"),
             py::arg("page_stride"));
  bind_mutators(forest);
  bind_queries(forest);
  bind_costs(module);
  bind_plan(module);
}
