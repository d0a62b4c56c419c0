# A room is a folder: its .cpp files join the library, its *_test.cpp files become one test
# program named after the folder, its *_bench.cpp files join `metala bench`, its *_fuzz.cpp files
# become fuzz targets; its *_cuda.cpp and *.cu files join where there is CUDA, *_mpi.cpp where there is
# MPI, *_nccl.cpp where there is NCCL. The *_ranks_test.cpp files of all rooms are one test program
# that mpirun starts. Adding a file to a room is all it takes.

function(metala_room room)
  set(folder ${PROJECT_SOURCE_DIR}/metala/${room})
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  file(GLOB tests CONFIGURE_DEPENDS ${folder}/*_test.cpp)
  file(GLOB ranks_tests CONFIGURE_DEPENDS ${folder}/*_ranks_test.cpp)
  file(GLOB for_mpi CONFIGURE_DEPENDS ${folder}/*_mpi.cpp)
  file(GLOB for_nccl CONFIGURE_DEPENDS ${folder}/*_nccl.cpp)
  file(GLOB benches CONFIGURE_DEPENDS ${folder}/*_bench.cpp)
  file(GLOB fuzzers CONFIGURE_DEPENDS ${folder}/*_fuzz.cpp)
  file(GLOB for_gpus CONFIGURE_DEPENDS ${folder}/*_cuda.cpp ${folder}/*.cu)
  if(METALA_CUDA_FOUND)
    list(APPEND sources ${for_gpus})
    list(REMOVE_DUPLICATES sources)
  elseif(for_gpus)
    list(REMOVE_ITEM sources ${for_gpus})
  endif()
  if(for_mpi AND NOT METALA_MPI_FOUND)
    list(REMOVE_ITEM sources ${for_mpi})
  endif()
  if(for_nccl AND NOT METALA_NCCL_FOUND)
    list(REMOVE_ITEM sources ${for_nccl})
  endif()
  if(tests OR benches OR fuzzers)
    list(REMOVE_ITEM sources ${tests} ${benches} ${fuzzers})
  endif()
  if(ranks_tests)
    list(REMOVE_ITEM tests ${ranks_tests})
    set_property(GLOBAL APPEND PROPERTY metala_ranks_tests ${ranks_tests})
  endif()
  set_property(GLOBAL APPEND PROPERTY metala_sources ${sources})
  set_property(GLOBAL APPEND PROPERTY metala_benches ${benches})
  set_property(GLOBAL APPEND PROPERTY metala_fuzzers ${fuzzers})
  if(tests)
    string(REPLACE "/" "_" name ${room})
    set_property(GLOBAL APPEND PROPERTY metala_test_rooms ${name})
    set_property(GLOBAL PROPERTY metala_tests_${name} ${tests})
  endif()
endfunction()

function(metala_rooms_under parent)
  file(GLOB folders CONFIGURE_DEPENDS LIST_DIRECTORIES true
       ${PROJECT_SOURCE_DIR}/metala/${parent}/*)
  foreach(folder ${folders})
    if(IS_DIRECTORY ${folder})
      get_filename_component(name ${folder} NAME)
      metala_room(${parent}/${name})
    endif()
  endforeach()
endfunction()

function(metala_library)
  get_property(sources GLOBAL PROPERTY metala_sources)
  add_library(metala STATIC ${sources})
  add_library(metala::metala ALIAS metala)
  target_include_directories(metala PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(metala PUBLIC cxx_std_20)
  target_compile_definitions(metala PRIVATE METALA_VERSION="${PROJECT_VERSION}")
  target_link_libraries(metala
    PUBLIC fmt::fmt
    PRIVATE $<BUILD_INTERFACE:metala_options> nlohmann_json::nlohmann_json
            Threads::Threads PkgConfig::openblas PkgConfig::hwy PkgConfig::sentencepiece
            PkgConfig::oniguruma PkgConfig::utf8proc PkgConfig::yaml PkgConfig::zlib PkgConfig::zstd)
  if(METALA_CUDA_FOUND)
    target_compile_definitions(metala PUBLIC METALA_CUDA)
    target_link_libraries(metala PUBLIC CUDA::cudart_static)
    set_source_files_properties(${PROJECT_SOURCE_DIR}/metala/device/cuda/cublas_lt_cuda.cpp
      PROPERTIES COMPILE_DEFINITIONS METALA_CUDA_LIBRARIES="${CUDAToolkit_LIBRARY_DIR}")
  endif()
  if(METALA_MPI_FOUND)
    target_compile_definitions(metala PRIVATE METALA_MPI OMPI_SKIP_MPICXX)
    target_link_libraries(metala PRIVATE MPI::MPI_CXX)
  endif()
  if(METALA_NCCL_FOUND)
    target_compile_definitions(metala PRIVATE METALA_NCCL)
    target_include_directories(metala SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
    target_link_libraries(metala PRIVATE ${NCCL_LIBRARY})
  endif()
endfunction()

# The rooms' benchmarks and whole-program ones, as objects linked into the program.
function(metala_room_benchmarks room)
  get_property(benches GLOBAL PROPERTY metala_benches)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/metala/${room}/*.cpp)
  add_library(metala_benchmarks OBJECT ${benches} ${sources})
  target_link_libraries(metala_benchmarks
    PRIVATE metala metala_options benchmark::benchmark PkgConfig::openblas
            PkgConfig::hwy)
endfunction()

function(metala_program room)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/metala/${room}/*.cpp)
  file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/metala/${room}/*_test.cpp)
  if(tests)
    list(REMOVE_ITEM sources ${tests})
  endif()
  add_executable(metala_program ${sources})
  set_target_properties(metala_program PROPERTIES OUTPUT_NAME metala)
  target_compile_definitions(metala_program PRIVATE METALA_VERSION="${PROJECT_VERSION}")
  target_link_libraries(metala_program
    PRIVATE metala metala_benchmarks metala_options CLI11::CLI11 nlohmann_json::nlohmann_json
            spdlog::spdlog benchmark::benchmark PkgConfig::openblas
            PkgConfig::hwy PkgConfig::edit)
endfunction()

function(metala_tests)
  get_property(rooms GLOBAL PROPERTY metala_test_rooms)
  foreach(room ${rooms})
    get_property(tests GLOBAL PROPERTY metala_tests_${room})
    metala_test(${room}_test ${tests})
  endforeach()
endfunction()

# One GoogleTest program; ctest runs it whole, its own filter runs a part.
function(metala_test name)
  add_executable(${name} ${ARGN})
  target_compile_definitions(${name} PRIVATE METALA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name}
    PRIVATE metala metala_options nlohmann_json::nlohmann_json
            PkgConfig::openblas PkgConfig::hwy GTest::gtest_main rapidcheck)
  # Tests' own code is compiled in half the time at -O1 and waits for the library's anyway.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  add_test(NAME ${name} COMMAND ${name})
endfunction()

# Tests of several ranks: one program that mpirun starts on 2 and on 4 of them. A rank has one thread,
# and may share a core with others.
function(metala_ranks_tests)
  get_property(tests GLOBAL PROPERTY metala_ranks_tests)
  if(NOT tests OR NOT METALA_MPI_FOUND)
    return()
  endif()
  add_executable(ranks_test ${tests} ${PROJECT_SOURCE_DIR}/tests/ranks_main.cpp)
  target_link_libraries(ranks_test
    PRIVATE metala metala_options nlohmann_json::nlohmann_json GTest::gtest
            rapidcheck)
  target_compile_options(ranks_test PRIVATE $<$<CONFIG:Release>:-O1>)
  foreach(ranks 2 4)
    add_test(NAME ranks_test_on_${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:ranks_test>)
    set_tests_properties(ranks_test_on_${ranks} PROPERTIES
      ENVIRONMENT "${metala_mpirun_environment}" TIMEOUT 600 PROCESSORS 2)
  endforeach()
endfunction()

# Every fuzz target also runs as a test over its small corpus, tests/corpus/NAME.
function(metala_fuzz_replays)
  get_property(fuzzers GLOBAL PROPERTY metala_fuzzers)
  foreach(source ${fuzzers})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name}_replay ${source} ${PROJECT_SOURCE_DIR}/tests/replay_main.cpp)
    target_link_libraries(${name}_replay PRIVATE metala metala_options)
    string(REPLACE "_fuzz" "" corpus ${name})
    add_test(NAME ${name}_replay
             COMMAND ${name}_replay ${PROJECT_SOURCE_DIR}/tests/corpus/${corpus})
  endforeach()
endfunction()

function(metala_fuzzers)
  get_property(fuzzers GLOBAL PROPERTY metala_fuzzers)
  add_custom_target(fuzzers)
  foreach(source ${fuzzers})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    add_dependencies(fuzzers ${name})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${name} PRIVATE metala metala_options)
  endforeach()
endfunction()
