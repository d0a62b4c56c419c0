#include "metala/io/torch_file.h"

#include <gtest/gtest.h>

#include <limits>

#include "metala/base/error.h"
#include "metala/harness/compare.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/torch_builder.h"
#include "metala/io/safetensors.h"

namespace metala {
namespace {

using namespace harness;
using namespace std::string_literals;

TorchFile opened(const std::string& bytes, const std::string& part = "") {
  const TemporaryFolder folder;
  folder.spill("model.bin", bytes);
  return TorchFile::open(folder / "model.bin", part);
}

template <class Number>
std::string raw(const std::vector<Number>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(Number)};
}

const std::string six = raw<float>({0, 1, 2, 3, 4, 5});

std::string one_tensor(const PickledTensor& tensor, const std::string& storage = six) {
  return torch_zip(pickled_dict({{"w", pickled_tensor(tensor)}}), {{"0", storage}});
}

void expect_refusal(const std::string& bytes, const std::string& reason) {
  try {
    const auto file = opened(bytes);
    for (const auto& name : file.names()) file.tensor(name);
    ADD_FAILURE() << "read, wanted: " << reason;
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(reason), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

// What PyTorch 2 writes for {"w": torch.arange(6.).reshape(2, 3)}.
const std::string golden =
    "\x80\x02}q\x00X\x01\x00\x00\x00wq\x01"
    "ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    "ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x00"
    "0q\x05X\x03\x00\x00\x00"
    "cpuq\x06K\x06tq\x07QK\x00K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89"
    "ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds."s;

TEST(TorchFile, ThePickleOfPyTorchItselfIsRead) {
  ASSERT_EQ(golden.size(), 166u);
  ZipOptions options;
  options.alignment = 64;
  const auto file = opened(zip_of({{"archive/data.pkl", golden},
                                   {"archive/byteorder", "little"},
                                   {"archive/data/0", six},
                                   {"archive/version", "3\n"}},
                                  options));
  EXPECT_EQ(file.names(), std::vector<std::string>{"w"});
  EXPECT_EQ(file.info("w").dtype, "F32");
  EXPECT_EQ(file.info("w").shape, (std::vector<std::int64_t>{2, 3}));
  const Tensor w = file.tensor("w");
  EXPECT_EQ(w.shape(), (Shape{2, 3}));
  EXPECT_EQ(values(w), (std::vector<double>{0, 1, 2, 3, 4, 5}));
}

TEST(TorchFile, RowMajorTensorsAreViewsOfTheMap) {
  ZipOptions options;
  options.alignment = 64;
  PickledTensor again;
  again.offset = 3;
  again.sizes = {3};
  again.strides = {1};
  const auto file =
      opened(torch_zip(pickled_dict({{"all", pickled_tensor({})}, {"end", pickled_tensor(again)}}),
                       {{"0", six}}, options));
  EXPECT_EQ(file.tensor("end").raw(), file.tensor("all").data<float>() + 3);
  EXPECT_EQ(values(file.tensor("end")), (std::vector<double>{3, 4, 5}));
}

TEST(TorchFile, TwoNamesMayShareAStorage) {
  const std::string tensor = pickled_tensor({});
  ZipOptions options;
  options.alignment = 64;
  const auto file =
      opened(torch_zip(pickled_dict({{"a", tensor + "q\1"}, {"b", "h\1"}}), {{"0", six}}, options));
  EXPECT_EQ(file.tensor("a").raw(), file.tensor("b").raw());
}

TEST(TorchFile, StridedViewsAreGathered) {
  PickledTensor transposed;
  transposed.sizes = {3, 2};
  transposed.strides = {1, 3};
  EXPECT_EQ(values(opened(one_tensor(transposed)).tensor("w")),
            (std::vector<double>{0, 3, 1, 4, 2, 5}));
  PickledTensor column;
  column.offset = 1;
  column.sizes = {1, 2, 1};
  column.strides = {17, 3, 90};
  EXPECT_EQ(values(opened(one_tensor(column)).tensor("w")), (std::vector<double>{1, 4}));
  PickledTensor wide;  // what a dimension of one element skips is never skipped
  wide.sizes = {2, 1, 2};
  wide.strides = {1, std::numeric_limits<std::int64_t>::max(), 2};
  EXPECT_EQ(values(opened(one_tensor(wide)).tensor("w")), (std::vector<double>{0, 2, 1, 3}));
}

TEST(TorchFile, StoragesOfEveryTypeAreListedAndThoseOfAModelRead) {
  struct Case {
    const char *storage, *word;
    std::size_t bytes;
    bool readable;
  };
  for (const auto& c : std::initializer_list<Case>{{"FloatStorage", "F32", 4, true},
                                                   {"DoubleStorage", "F64", 8, true},
                                                   {"HalfStorage", "F16", 2, true},
                                                   {"BFloat16Storage", "BF16", 2, true},
                                                   {"LongStorage", "I64", 8, true},
                                                   {"IntStorage", "I32", 4, true},
                                                   {"ByteStorage", "U8", 1, true},
                                                   {"BoolStorage", "BOOL", 1, true},
                                                   {"ShortStorage", "I16", 2, false},
                                                   {"CharStorage", "I8", 1, false},
                                                   {"ComplexFloatStorage", "C64", 8, false},
                                                   {"ComplexDoubleStorage", "C128", 16, false}}) {
    PickledTensor t;
    t.storage = c.storage;
    const std::string value = pickled_dict({{"w", pickled_tensor(t)}});
    const std::string data(6 * c.bytes, '\1');
    for (const auto& bytes :
         {torch_zip(value, {{"0", data}}), torch_legacy(value, {{"0", data}}, c.bytes)}) {
      const auto file = opened(bytes);
      EXPECT_EQ(file.info("w").dtype, c.word);
      if (c.readable) {
        EXPECT_EQ(file.tensor("w").bytes(), data.size());
      } else {
        EXPECT_THROW(file.tensor("w"), Error);
      }
    }
  }
}

TEST(TorchFile, TheLegacyStreamIsReadWithItsStoragesInOrder) {
  PickledTensor second;
  second.key = "94021";
  second.count = 2;
  second.sizes = {2};
  second.strides = {1};
  second.storage_view = {"N"};
  PickledTensor part;  // the last two elements of the first storage, as a storage of its own
  part.storage_view = {pickled_tuple({pickled("77"), pickled(4), pickled(2)})};
  part.sizes = {2};
  part.strides = {1};
  const auto file = opened(torch_legacy(
      pickled_dict(
          {{"a", pickled_tensor({})}, {"b", pickled_tensor(second)}, {"c", pickled_tensor(part)}}),
      {{"94021", raw<float>({8, 9})}, {"0", six}}, 4));
  EXPECT_EQ(values(file.tensor("a")), (std::vector<double>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(values(file.tensor("b")), (std::vector<double>{8, 9}));
  EXPECT_EQ(values(file.tensor("c")), (std::vector<double>{4, 5}));
}

TEST(TorchFile, ParametersAndSubclassesAreUnwrapped) {
  const std::string plain = pickled_tensor({});
  const std::string hooks = pickled_global("collections", "OrderedDict") + ")R";
  const std::string parameter = pickled_global("torch._utils", "_rebuild_parameter") +
                                pickled_tuple({plain, "\x88", hooks}) + "R";
  const std::string given = pickled_tuple(
      {pickled_storage({}), pickled(0), pickled_counts({6}), pickled_counts({1}), "\x89", hooks});
  const std::string subclass =
      pickled_global("torch._tensor", "_rebuild_from_type_v2") +
      pickled_tuple({pickled_global("torch._utils", "_rebuild_tensor_v2"),
                     pickled_global("my.package", "Subclass"), given, "}"}) +
      "R";
  const auto file =
      opened(torch_zip(pickled_dict({{"p", parameter}, {"s", subclass}}), {{"0", six}}));
  EXPECT_EQ(file.tensor("p").shape(), (Shape{2, 3}));
  EXPECT_EQ(file.tensor("s").shape(), (Shape{6}));
}

TEST(TorchFile, ATypeMayStandBesideAStorageOfBytes) {
  const auto tensor = [](const std::string& type) {
    const std::string id =
        pickled_tuple({pickled("storage"), pickled_global("torch.storage", "UntypedStorage"),
                       pickled("0"), pickled("cpu"), pickled(24)});
    return pickled_global("torch._utils", "_rebuild_tensor_v3") +
           pickled_tuple({id + "Q", pickled(1), pickled_counts({2}), pickled_counts({2}), "\x89",
                          "N", pickled_global("torch", type)}) +
           "R";
  };
  const auto file = opened(
      torch_zip(pickled_dict({{"w", tensor("float32")}, {"u", tensor("uint16")}}), {{"0", six}}));
  EXPECT_EQ(values(file.tensor("w")), (std::vector<double>{1, 3}));
  EXPECT_EQ(file.info("u").dtype, "U16");
  expect_refusal(torch_zip(pickled_dict({{"w", tensor("int3")}}), {{"0", six}}),
                 "has the unknown type torch.int3");
}

TEST(TorchFile, BytesWithoutATypeOrAWholeElementAreRefused) {
  const auto tensor = [](const std::string& call, const std::vector<std::string>& view) {
    std::vector<std::string> id = {pickled("storage"),
                                   pickled_global("torch.storage", "UntypedStorage"), pickled("0"),
                                   pickled("cpu"), pickled(24)};
    id.insert(id.end(), view.begin(), view.end());
    return pickled_global("torch._utils", call) +
           pickled_tuple({pickled_tuple(id) + "Q", pickled(0), pickled_counts({2}),
                          pickled_counts({1}), "\x89", "N", pickled_global("torch", "float32")}) +
           "R";
  };
  const auto file_with = [](const std::string& value) {
    return torch_zip(pickled_dict({{"w", value}}), {{"0", six}});
  };
  expect_refusal(file_with(tensor("_rebuild_tensor_v2", {})), "its storage has no type");
  const std::string odd = pickled_tuple({pickled("1"), pickled(1), pickled(20)});
  expect_refusal(file_with(tensor("_rebuild_tensor_v3", {odd})), "starts within an element");
}

TEST(TorchFile, AnOrderedDictOfPairsOrSetKeysHoldsTensors) {
  const std::string ordered = pickled_global("collections", "OrderedDict");
  const std::string set = ordered + ")R(" + pickled("w") + pickled_tensor({}) + "u" +
                          pickled_dict({{"_metadata", "}"}}) + "b";
  EXPECT_TRUE(opened(torch_zip(set, {{"0", six}})).contains("w"));
  const std::string pair = "](" + pickled("w") + pickled_tensor({}) + "e";
  const std::string given = ordered + "](" + pair + "e\x85R";
  EXPECT_TRUE(opened(torch_zip(given, {{"0", six}})).contains("w"));
}

TEST(TorchFile, WhatIsNotATensorIsPassedOver) {
  const std::string unknown = pickled_global("deepspeed.runtime", "Config") + ")R";
  const std::string nested = pickled_dict({{"state", pickled_dict({{"step", "K\7"}})}});
  const auto file = opened(
      torch_zip(pickled_dict({{"a", unknown}, {"optimizer", nested}, {"w", pickled_tensor({})}}),
                {{"0", six}}));
  EXPECT_EQ(file.names(), std::vector<std::string>{"w"});
}

TEST(TorchFile, TheDictionaryUnderAKeyIsReadWhereItIsAskedFor) {
  const std::string bytes = torch_zip(
      pickled_dict({{"iteration", "K\7"}, {"module", pickled_dict({{"w", pickled_tensor({})}})}}),
      {{"0", six}});
  EXPECT_TRUE(opened(bytes, "module").contains("w"));
  EXPECT_THROW(opened(bytes, "iteration"), Error);
  EXPECT_THROW(opened(bytes, "absent"), Error);
  expect_refusal(bytes, "holds no tensors by name; its entries: iteration, module");
}

TEST(TorchFile, ATensorMadeByAnUnknownCallIsRefusedByName) {
  const std::string parameter =
      pickled_global("torch._utils", "_rebuild_parameter") +
      pickled_tuple({pickled_global("os", "system") + pickled("true") + "\x85R", "\x88", "N"}) +
      "R";
  expect_refusal(torch_zip(pickled_dict({{"w", parameter}}), {}),
                 "w: needs a call of os.system, which is not interpreted");
}

TEST(TorchFile, WhatIsWrappedMustBeATensor) {
  const std::string parameter = pickled_global("torch._utils", "_rebuild_parameter") + "N\x85R";
  expect_refusal(torch_zip(pickled_dict({{"w", parameter}}), {}),
                 "w: is a plain value, not a tensor");
  const auto file = opened(one_tensor({}));
  EXPECT_THROW(file.tensor("absent"), Error);
}

TEST(TorchFile, AViewBeyondItsStorageIsRefused) {
  PickledTensor t;
  t.offset = 1;
  expect_refusal(one_tensor(t), "w: reaches element 6 of a storage of 6");
  t.offset = -1;
  expect_refusal(one_tensor(t), "its offset is -1");
  t = {};
  t.strides = {-3, 1};
  expect_refusal(one_tensor(t), "a stride is -3");
  t = {};
  t.strides = {std::int64_t{1} << 62, 1};
  t.sizes = {9, 1};
  expect_refusal(one_tensor(t), "lead beyond 64 bits");
  t.strides = {0, 0};
  t.sizes = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  expect_refusal(one_tensor(t), "lead beyond 64 bits");
  t.sizes = {std::int64_t{1} << 40, 1};
  expect_refusal(one_tensor(t), "w: repeats its storage's 6 elements 1099511627776 times over");
  t = {};
  t.strides = {1};
  expect_refusal(one_tensor(t), "has 2 sizes and 1 strides");
}

TEST(TorchFile, AnEmptyDictionaryHoldsNoTensors) {
  EXPECT_TRUE(opened(torch_zip("}", {})).names().empty());
}

TEST(TorchFile, AnEmptyTensorNeedsNoStorage) {
  PickledTensor t;
  t.count = 0;
  t.sizes = {0, 3};
  EXPECT_EQ(opened(one_tensor(t, "")).tensor("w").shape(), (Shape{0, 3}));
}

TEST(TorchFile, StoragesShorterThanTheySayOrMissingAreRefused) {
  expect_refusal(one_tensor({}, six.substr(1)), "should hold 6 elements of 4 bytes");
  PickledTensor t;
  t.key = "../1";
  expect_refusal(one_tensor(t), "its storage ../1 is missing");
  const std::string legacy =
      torch_legacy(pickled_dict({{"w", pickled_tensor({})}}), {{"0", six}}, 4);
  expect_refusal(legacy.substr(0, legacy.size() - 1), "has 6 elements; the file is truncated");
}

TEST(TorchFile, IdsThatAreNoStoragesAreRefused) {
  PickledTensor t;
  t.storage = "QuantizedStorage";
  expect_refusal(one_tensor(t), "its storage has the unknown type torch.QuantizedStorage");
  t = {};
  t.storage_view = {pickled_tuple({pickled("1"), pickled(4), pickled(3)})};
  expect_refusal(one_tensor(t), "3 elements at 4 of a storage of 6");
  const auto with_storage = [](const std::string& storage) {
    return torch_zip(
        pickled_dict({{"w", pickled_global("torch._utils", "_rebuild_tensor") +
                                pickled_tuple({storage, "K\0"s, "K\0\x85"s, ")"}) + "R"}}),
        {});
  };
  expect_refusal(with_storage("N"), "its storage is a plain value");
  expect_refusal(with_storage("NQ"), "its storage is not a tuple");
  expect_refusal(with_storage("(NNNNNtQ"), "is not ('storage', type, key, location, count)");
}

TEST(TorchFile, LegacyStoragesMustBeOfOneTypeAndUsed) {
  PickledTensor half;
  half.storage = "HalfStorage";
  expect_refusal(
      torch_legacy(pickled_dict({{"a", pickled_tensor({})}, {"b", pickled_tensor(half)}}),
                   {{"0", six}}, 4),
      "storage 0 is F32 and F16");
  expect_refusal(torch_legacy(pickled_dict({{"a", pickled_tensor({})}}), {{"1", six}}, 4),
                 "stores 1, which nothing uses");
}

TEST(TorchFile, OtherByteOrdersAndProtocolsAreRefused) {
  expect_refusal(zip_of({{"m/data.pkl", golden}, {"m/byteorder", "big"}, {"m/data/0", six}}),
                 "its byte order is \"big\"");
  const std::string legacy =
      torch_legacy(pickled_dict({{"w", pickled_tensor({})}}), {{"0", six}}, 4);
  std::string big = legacy;
  big[big.find("little_endian") + 13] = '\x89';
  expect_refusal(big, "its byte order is big-endian");
  std::string later = legacy;
  later[18] = '\xea';
  expect_refusal(later, "its protocol is 1002");
}

TEST(TorchFile, FilesOfOtherKindsAreRefusedForWhatTheyAre) {
  expect_refusal(std::string(257, 'x') + "ustar" + std::string(300, '\0'), "is a tar file");
  expect_refusal("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer");
  expect_refusal("\x80\x02N.", "is not a file of torch.save");
  expect_refusal("", "is not a file of torch.save");
  expect_refusal(zip_of({{"data.pkl", golden}}), "holds no data.pkl");
  expect_refusal(zip_of({{"a/data.pkl", golden}, {"b/data.pkl", golden}}), "holds both a/data.pkl");
  expect_refusal(zip_of({{"a/data.pkl", golden}, {"a/constants.pkl", golden}}),
                 "is a TorchScript program");
  expect_refusal(torch_zip("N", {}), "what it holds is no dictionary of tensors");
}

TEST(TorchFile, WrappingsBeyondReasonAreRefused) {
  std::string value = pickled_tensor({});
  for (int i = 0; i < 9; ++i) {
    value = pickled_global("torch._utils", "_rebuild_parameter") + value + "\x85R";
  }
  expect_refusal(torch_zip(pickled_dict({{"w", value}}), {{"0", six}}), "is wrapped in more than");
  std::string call = pickled_tuple({"N"});
  for (int i = 0; i < 9; ++i) {
    call =
        pickled_tuple({pickled_global("torch._tensor", "_rebuild_from_type_v2"), "N", call, "N"});
  }
  expect_refusal(
      torch_zip(pickled_dict(
                    {{"w", pickled_global("torch._tensor", "_rebuild_from_type_v2") + call + "R"}}),
                {}),
      "is wrapped in more than");
  std::string deep = "cm\nn\n";
  for (int i = 0; i < 100'000; ++i) deep += ")R";
  expect_refusal(
      torch_zip(pickled_dict(
                    {{"w", pickled_global("torch._utils", "_rebuild_parameter") + deep + "\x85R"}}),
                {}),
      "needs a call of a call");
}

// tools/foreign_checkpoints.py writes these with PyTorch itself.
TEST(TorchFile, OddTensorsOfPyTorchItselfAreReadBitForBit) {
  const std::string folder = METALA_SOURCE_DIR "/tests/foreign/odd/";
  const auto expected = SafetensorsFile::open(folder + "expected.safetensors");
  for (const char* name : {"zip.pt", "legacy.pt", "protocol4.pt"}) {
    const auto file = TorchFile::open(folder + name);
    EXPECT_EQ(file.names(), expected.names()) << name;
    for (const auto& tensor : expected.names()) {
      EXPECT_EQ(file.info(tensor).dtype, expected.info(tensor).dtype) << name << ": " << tensor;
      EXPECT_TRUE(same_bits(file.tensor(tensor), expected.tensor(tensor)))
          << name << ": " << tensor;
    }
  }
}

}  // namespace
}  // namespace metala
