#include "metala/device/cpu/matrix_product.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

#include "metala/base/profile.h"

namespace metala {
namespace {

int blas_int(std::int64_t n) {
  require(n <= std::numeric_limits<int>::max(), "matrix product: size {} is beyond the BLAS's int",
          n);
  return static_cast<int>(n);
}

// The BLAS wants a row stride of at least 1 even where there is one row or none.
int row_stride(const Tensor& t) {
  return blas_int(std::max<std::int64_t>({t.stride(0), t.size(1), 1}));
}

CBLAS_TRANSPOSE blas(Transpose t) {
  return t == Transpose::yes ? CblasTrans : CblasNoTrans;
}

}  // namespace

void matrix_product(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                    float beta, const Tensor& c) {
  const std::int64_t inner = a.size(transpose_a == Transpose::yes ? 0 : 1);
  if (c.count() == 0) return;
  const profile::Scope scope("matrix products",
                             2.0 * static_cast<double>(c.count()) * static_cast<double>(inner));
  cblas_sgemm(CblasRowMajor, blas(transpose_a), blas(transpose_b), blas_int(c.size(0)),
              blas_int(c.size(1)), blas_int(inner), 1.0f, a.data<float>(), row_stride(a),
              b.data<float>(), row_stride(b), beta, c.data<float>(), row_stride(c));
}

}  // namespace metala
