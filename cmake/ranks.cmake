# Many processes: METALA_MPI and METALA_NCCL are ON, OFF or AUTO (ON where it is found). Rooms then
# bring their *_mpi.cpp and *_nccl.cpp files. MPI connects CPUs and starts processes; NCCL connects
# GPUs and needs CUDA.
set(METALA_MPI AUTO CACHE STRING "Ranks on CPUs: ON, OFF or AUTO")
set(METALA_NCCL AUTO CACHE STRING "Ranks on GPUs: ON, OFF or AUTO")
set_property(CACHE METALA_MPI METALA_NCCL PROPERTY STRINGS AUTO ON OFF)

set(METALA_MPI_FOUND OFF)
if(METALA_MPI)
  set(MPI_CXX_SKIP_MPICXX ON)  # the C interface is enough
  find_package(MPI COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    set(METALA_MPI_FOUND ON)
  elseif(NOT METALA_MPI STREQUAL AUTO)
    message(FATAL_ERROR "METALA_MPI is ON but no MPI was found; install libopenmpi-dev openmpi-bin")
  endif()
endif()

set(METALA_NCCL_FOUND OFF)
if(METALA_NCCL AND METALA_CUDA_FOUND)
  # Beside the toolkit's own libraries is one of the places where it may lie.
  find_path(NCCL_INCLUDE_DIR nccl.h
            HINTS ENV NCCL_ROOT ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2
               HINTS ENV NCCL_ROOT ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_DIR}/../lib
               PATH_SUFFIXES lib)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    set(METALA_NCCL_FOUND ON)
  elseif(NOT METALA_NCCL STREQUAL AUTO)
    message(FATAL_ERROR "METALA_NCCL is ON but no NCCL was found; install libnccl-dev or set NCCL_ROOT")
  endif()
elseif(METALA_NCCL AND NOT METALA_NCCL STREQUAL AUTO)
  message(FATAL_ERROR "METALA_NCCL is ON but METALA_CUDA is not")
endif()

# For tests: more ranks than cores, each with one thread, as any user, container or not.
set(metala_mpirun_environment
  OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_plm_rsh_agent=
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  ASAN_OPTIONS=detect_leaks=0)  # MPI itself leaks
