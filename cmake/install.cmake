# `cmake --install` puts the program, the library, its headers and a CMake package in place.
include(CMakePackageConfigHelpers)
install(TARGETS metala_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS metala EXPORT metala-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY metala/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/metala
        FILES_MATCHING PATTERN "*.h"
        PATTERN "harness" EXCLUDE PATTERN "cli" EXCLUDE PATTERN "bench" EXCLUDE
        PATTERN "*_cpu.h" EXCLUDE PATTERN "*-inl.h" EXCLUDE PATTERN "*_problem.h" EXCLUDE)
install(EXPORT metala-targets NAMESPACE metala::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metala)
configure_package_config_file(cmake/metala-config.cmake.in
  ${PROJECT_BINARY_DIR}/metala-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metala)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/metala-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/metala-config.cmake
              ${PROJECT_BINARY_DIR}/metala-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/metala)
