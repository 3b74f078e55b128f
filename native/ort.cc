// ONNX Runtime for Node without copies: inputs are read from and outputs written to the memory of typed arrays.
//
// The library is the one that onnxruntime-node ships, opened by path; nothing is linked. One OrtEnv a process,
// shared by its threads and never released: what outlives it would have to be released first. Sessions and calls
// belong to the thread that made them; their finalizers run before its environment goes.

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <napi.h>

#include "api.h"

namespace {

// What src/runtime/executor/onnx-native.ts expects; raised with every change to what is exported here.
constexpr int kInterface = 1;

struct Runtime {
  OrtApi api;
  OrtEnv *env;
  OrtMemoryInfo *cpu;
  std::string path;
};

std::mutex runtime_mutex;
Runtime *runtime = nullptr;

Napi::Error error(Napi::Env env, const std::string &message) { return Napi::Error::New(env, message); }

// Throws ONNX Runtime's own message.
void check(Napi::Env env, const OrtApi &api, OrtStatus *status) {
  if (status == nullptr) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw error(env, message);
}

// A slot that is not what it should be is found here, by calls that cannot do harm.
bool answersAsExpected(const OrtApi &api) {
  OrtStatus *status = api.CreateStatus(kErrorInvalidArgument, "probe");
  if (status == nullptr) return false;
  const bool same =
      api.GetErrorCode(status) == kErrorInvalidArgument && std::strcmp(api.GetErrorMessage(status), "probe") == 0;
  api.ReleaseStatus(status);
  return same;
}

// Opens the library once a process.
void open(Napi::Env env, const std::string &path, const std::string &version) {
  const std::lock_guard<std::mutex> lock(runtime_mutex);
  if (runtime != nullptr) {
    if (runtime->path != path) throw error(env, "ONNX Runtime is in use already, from " + runtime->path);
    return;
  }
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw error(env, dlerror());
  const auto base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) throw error(env, path + " has no OrtGetApiBase");
  const std::string found = base()->GetVersionString();
  if (found != version) throw error(env, path + " is version " + found + "; this works with " + version);
  const void *const *table = base()->GetApi(kApiVersion);
  if (table == nullptr) throw error(env, path + " has no API of version " + std::to_string(kApiVersion));
  const OrtApi api(table);
  if (!answersAsExpected(api)) throw error(env, path + " does not answer as ONNX Runtime does");
  OrtEnv *ort_env = nullptr;
  check(env, api, api.CreateEnv(kLogError, "ithaca", &ort_env));
  OrtMemoryInfo *cpu = nullptr, *arena = nullptr;
  check(env, api, api.CreateCpuMemoryInfo(kDeviceAllocator, kMemoryDefault, &cpu));
  // Temporaries of all sessions and threads come from one arena: what it keeps is the most that they need at a
  // time. Without it every large one is mapped, zeroed and unmapped; one for each session would keep their sum.
  check(env, api, api.CreateCpuMemoryInfo(kArenaAllocator, kMemoryDefault, &arena));
  OrtStatus *registered = api.CreateAndRegisterAllocator(ort_env, arena, nullptr);
  api.ReleaseMemoryInfo(arena);
  check(env, api, registered);
  runtime = new Runtime{api, ort_env, cpu, path};
}

Runtime &opened(Napi::Env env) {
  const std::lock_guard<std::mutex> lock(runtime_mutex);
  if (runtime == nullptr) throw error(env, "ONNX Runtime is not open yet");
  return *runtime;
}

struct Port {
  std::string name;
  ElementType type;
};

// Constructors, one set for each thread.
struct Constructors {
  Napi::FunctionReference session;
};

struct TypeName {
  const char *name;
  ElementType type;
  napi_typedarray_type array;
  size_t bytes;
};

constexpr TypeName kTypes[] = {
    {"float32", kFloat, napi_float32_array, 4},
    {"int32", kInt32, napi_int32_array, 4},
    {"int64", kInt64, napi_bigint64_array, 8},
    {"bool", kBool, napi_uint8_array, 1},
};

// Names and tensors of one call, as ONNX Runtime takes them.
class Tensors {
 public:
  explicit Tensors(const Runtime &ort) : ort_(ort) {}
  Tensors(const Tensors &) = delete;
  Tensors &operator=(const Tensors &) = delete;
  ~Tensors() {
    for (OrtValue *value : values) ort_.api.ReleaseValue(value);
  }

  std::vector<const char *> names;
  std::vector<OrtValue *> values;

  // Takes every {type, dims, data} of `record` that is named in `ports`; adds the memory to `buffers`.
  void read(const Napi::Object &record, const std::vector<Port> &ports, const char *kind,
            std::vector<napi_value> &buffers) {
    const Napi::Env env = record.Env();
    const Napi::Array keys = record.GetPropertyNames();
    const uint32_t count = keys.Length();
    names.reserve(count);
    values.reserve(count);
    for (uint32_t i = 0; i < count; i++) {
      const Napi::Value key = keys[i];
      const std::string name = key.As<Napi::String>();
      const auto port = std::find_if(ports.begin(), ports.end(), [&](const Port &p) { return p.name == name; });
      if (port == ports.end()) throw error(env, std::string("the model has no ") + kind + " " + name);
      const Napi::Value tensor = record.Get(key);
      if (!tensor.IsObject()) throw error(env, std::string(kind) + " " + name + " is not a tensor");
      add(*port, tensor.As<Napi::Object>(), kind, buffers);
    }
  }

 private:
  void add(const Port &port, const Napi::Object &tensor, const char *kind, std::vector<napi_value> &buffers) {
    const Napi::Env env = tensor.Env();
    const auto fail = [&](const std::string &what) {
      return error(env, std::string(kind) + " " + port.name + ": " + what);
    };
    const Napi::Value type_value = tensor.Get("type");
    const Napi::Value dims_value = tensor.Get("dims");
    const Napi::Value data_value = tensor.Get("data");
    if (!type_value.IsString() || !dims_value.IsArray() || !data_value.IsTypedArray())
      throw fail("a tensor has a type, dims and data");
    const std::string type_name = type_value.As<Napi::String>();
    const auto type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeName &t) { return type_name == t.name; });
    if (type == std::end(kTypes)) throw fail("type " + type_name + " is not known");
    if (type->type != port.type) throw fail("the model has another type than " + type_name);

    napi_typedarray_type array_type;
    size_t length = 0;
    void *data = nullptr;
    napi_value buffer = nullptr;
    if (napi_get_typedarray_info(env, data_value, &array_type, &length, &data, &buffer, nullptr) != napi_ok)
      throw fail("its data cannot be read");
    if (Napi::Object(env, buffer).Get("resizable").ToBoolean()) throw fail("its memory can be resized");
    if (array_type != type->array) throw fail("its data is of another type than " + type_name);

    const Napi::Array dims_array = dims_value.As<Napi::Array>();
    const uint32_t rank = dims_array.Length();
    std::vector<int64_t> dims(rank);
    size_t elements = 1;
    for (uint32_t i = 0; i < rank; i++) {
      const Napi::Value dim_value = dims_array[i];
      const double dim = dim_value.IsNumber() ? dim_value.As<Napi::Number>().DoubleValue() : -1;
      if (!(dim >= 0 && dim <= 9007199254740991.0)) throw fail("its dims are not sizes");
      dims[i] = static_cast<int64_t>(dim);
      if (__builtin_mul_overflow(elements, static_cast<size_t>(dims[i]), &elements)) throw fail("its dims are too large");
    }
    if (elements != length)
      throw fail("its dims are " + std::to_string(elements) + " elements, its data is " + std::to_string(length));

    // An empty array may have no address; ONNX Runtime wants one.
    static char nothing[8];
    OrtValue *value = nullptr;
    check(env, ort_.api,
          ort_.api.CreateTensorWithDataAsOrtValue(ort_.cpu, length == 0 ? nothing : data, length * type->bytes,
                                                  dims.data(), rank, type->type, &value));
    names.push_back(port.name.c_str());
    values.push_back(value);
    if (length > 0) buffers.push_back(buffer);
  }

  const Runtime &ort_;
};

class Session : public Napi::ObjectWrap<Session> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceMethod("run", &Session::run), InstanceMethod("dispose", &Session::dispose),
                        InstanceAccessor("outputs", &Session::outputs, nullptr)});
  }

  // new Session(model: Uint8Array)
  explicit Session(const Napi::CallbackInfo &info) : ObjectWrap(info), ort(opened(info.Env())) {
    const Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsTypedArray()) throw error(env, "a session is made of the bytes of a model");
    const Napi::TypedArray model = info[0].As<Napi::TypedArray>();
    void *bytes = nullptr;
    napi_get_typedarray_info(env, model, nullptr, nullptr, &bytes, nullptr, nullptr);
    OrtSessionOptions *raw = nullptr;
    check(env, ort.api, ort.api.CreateSessionOptions(&raw));
    const std::unique_ptr<OrtSessionOptions, void (*)(OrtSessionOptions *)> options(raw, ort.api.ReleaseSessionOptions);
    // One thread, and that one is the caller's: ranks are the parallelism.
    check(env, ort.api, ort.api.SetIntraOpNumThreads(raw, 1));
    check(env, ort.api, ort.api.SetInterOpNumThreads(raw, 1));
    check(env, ort.api, ort.api.SetSessionGraphOptimizationLevel(raw, kOptimizeAll));
    check(env, ort.api, ort.api.SetSessionLogSeverityLevel(raw, kLogError));
    check(env, ort.api, ort.api.DisableMemPattern(raw));
    check(env, ort.api, ort.api.AddSessionConfigEntry(raw, "session.intra_op.allow_spinning", "0"));
    check(env, ort.api, ort.api.AddSessionConfigEntry(raw, "session.inter_op.allow_spinning", "0"));
    check(env, ort.api, ort.api.AddSessionConfigEntry(raw, "session.use_env_allocators", "1"));
    OrtSession *session = nullptr;
    check(env, ort.api, ort.api.CreateSessionFromArray(ort.env, bytes, model.ByteLength(), raw, &session));
    session_ = {session, ort.api.ReleaseSession};
    readPorts(env, inputs_, ort.api.SessionGetInputCount, ort.api.SessionGetInputName, ort.api.SessionGetInputTypeInfo);
    readPorts(env, outputs_, ort.api.SessionGetOutputCount, ort.api.SessionGetOutputName,
              ort.api.SessionGetOutputTypeInfo);
    // What it takes is not known; the collector should know that it is not nothing.
    bytes_ = static_cast<int64_t>(model.ByteLength());
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes_);
  }

  void Finalize(Napi::BasicEnv env) override { release(env); }

  const Runtime &ort;

  void read(const Napi::CallbackInfo &info, size_t at, Tensors &feeds, Tensors &fetches,
            std::vector<napi_value> &buffers) const {
    if (info.Length() < at + 2 || !info[at].IsObject() || !info[at + 1].IsObject())
      throw error(info.Env(), "a call takes feeds and fetches");
    feeds.read(info[at].As<Napi::Object>(), inputs_, "input", buffers);
    // Names are taken once each, so equal numbers are equal sets.
    if (feeds.names.size() < inputs_.size()) throw error(info.Env(), "no input " + firstMissing(feeds) + " is given");
    fetches.read(info[at + 1].As<Napi::Object>(), outputs_, "output", buffers);
  }

  // Blocks. What the memory of `fetches` is not large enough for is ONNX Runtime's error, found before it writes.
  void run(Napi::Env env, const Tensors &feeds, Tensors &fetches) {
    if (session_ == nullptr) throw error(env, "the session has been disposed of");
    check(env, ort.api,
          ort.api.Run(session_.get(), nullptr, feeds.names.data(), feeds.values.data(), feeds.values.size(),
                      fetches.names.data(), fetches.values.size(), fetches.values.data()));
  }

 private:
  template <typename Count, typename Name, typename Type>
  void readPorts(Napi::Env env, std::vector<Port> &ports, Count count, Name name, Type type) {
    OrtAllocator *allocator = nullptr;
    check(env, ort.api, ort.api.GetAllocatorWithDefaultOptions(&allocator));
    size_t n = 0;
    check(env, ort.api, count(session_.get(), &n));
    for (size_t i = 0; i < n; i++) {
      char *text = nullptr;
      check(env, ort.api, name(session_.get(), i, allocator, &text));
      Port port{text, ElementType(0)};
      check(env, ort.api, ort.api.AllocatorFree(allocator, text));
      OrtTypeInfo *raw = nullptr;
      check(env, ort.api, type(session_.get(), i, &raw));
      const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo *)> held(raw, ort.api.ReleaseTypeInfo);
      const OrtTensorTypeAndShapeInfo *tensor = nullptr;
      check(env, ort.api, ort.api.CastTypeInfoToTensorInfo(raw, &tensor));
      if (tensor != nullptr) check(env, ort.api, ort.api.GetTensorElementType(tensor, &port.type));
      ports.push_back(port);
    }
  }

  std::string firstMissing(const Tensors &feeds) const {
    const auto fed = [&](const Port &port) {
      return std::find(feeds.names.begin(), feeds.names.end(), port.name) != feeds.names.end();
    };
    return std::find_if_not(inputs_.begin(), inputs_.end(), fed)->name;
  }

  // run(feeds, fetches)
  void run(const Napi::CallbackInfo &info) {
    Tensors feeds(ort), fetches(ort);
    std::vector<napi_value> buffers;
    read(info, 0, feeds, fetches, buffers);
    run(info.Env(), feeds, fetches);
  }

  void dispose(const Napi::CallbackInfo &info) { release(info.Env()); }

  void release(Napi::BasicEnv env) {
    if (session_ == nullptr) return;
    session_.reset();
    Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
  }

  Napi::Value outputs(const Napi::CallbackInfo &info) {
    const Napi::Array names = Napi::Array::New(info.Env(), outputs_.size());
    for (uint32_t i = 0; i < outputs_.size(); i++) names.Set(i, outputs_[i].name);
    return names;
  }

  std::unique_ptr<OrtSession, void (*)(OrtSession *)> session_{nullptr, nullptr};
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  int64_t bytes_ = 0;
};

// A call whose tensors stay where they are.
class Call : public Napi::ObjectWrap<Call> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Call", {InstanceMethod("run", &Call::run)});
  }

  // new Call(session, feeds, fetches)
  explicit Call(const Napi::CallbackInfo &info)
      : ObjectWrap(info), session_(sessionOf(info)), feeds_(session_->ort), fetches_(session_->ort) {
    const Napi::Env env = info.Env();
    std::vector<napi_value> buffers;
    session_->read(info, 1, feeds_, fetches_, buffers);
    keep(env, info[0]);
    for (size_t i = 0; i < buffers.size(); i++) {
      const bool known = std::any_of(buffers.begin(), buffers.begin() + i, [&](napi_value other) {
        bool same = false;
        return napi_strict_equals(env, other, buffers[i], &same) == napi_ok && same;
      });
      if (!known) keep(env, buffers[i]);
    }
    bytes_ = 512 * static_cast<int64_t>(feeds_.values.size() + fetches_.values.size());
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes_);
  }

  void Finalize(Napi::BasicEnv env) override {
    Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
    for (napi_ref kept : kept_) napi_delete_reference(env, kept);
  }

 private:
  static Session *sessionOf(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    const Napi::Function constructor = env.GetInstanceData<Constructors>()->session.Value();
    if (info.Length() < 1 || !info[0].IsObject() || !info[0].As<Napi::Object>().InstanceOf(constructor))
      throw error(env, "a call is made of a session");
    return Session::Unwrap(info[0].As<Napi::Object>());
  }

  void keep(Napi::Env env, napi_value value) {
    napi_ref reference = nullptr;
    if (napi_create_reference(env, value, 1, &reference) != napi_ok) throw error(env, "out of memory");
    kept_.push_back(reference);
  }

  void run(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    for (size_t i = 1; i < kept_.size(); i++) {
      napi_value buffer = nullptr;
      bool detached = true;
      napi_get_reference_value(env, kept_[i], &buffer);
      napi_is_detached_arraybuffer(env, buffer, &detached);
      if (detached) throw error(env, "the memory of a tensor has been transferred");
    }
    session_->run(env, feeds_, fetches_);
  }

  Session *session_;
  Tensors feeds_;
  Tensors fetches_;
  // The session, then the buffers.
  std::vector<napi_ref> kept_;
  int64_t bytes_ = 0;
};

// open(path, version): opens the library, of exactly this version.
void openLibrary(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsString() || !info[1].IsString())
    throw error(env, "open takes a path and a version");
  open(env, info[0].As<Napi::String>(), info[1].As<Napi::String>());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto *constructors = new Constructors;
  const Napi::Function session = Session::define(env);
  constructors->session = Napi::Persistent(session);
  env.SetInstanceData(constructors);
  exports["Session"] = session;
  exports["Call"] = Call::define(env);
  exports["open"] = Napi::Function::New(env, openLibrary, "open");
  exports["interface"] = Napi::Number::New(env, kInterface);
  return exports;
}

}  // namespace

NODE_API_MODULE(ithaca_ort, init)
