// The scalar functions of SPEC.md, sections 1, 2 and 4. Every operation is written with its rounding, so that no compiler contracts it.
#pragma once
#include "platform.cuh"

DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE float sub(float a, float b) { return __fsub_rn(a, b); }
DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
DEVICE float quotient(float a, float b) { return __fdiv_rn(a, b); }

#define ROUND 12582912.0f
#define INFINITE __uint_as_float(0x7f800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)

DEVICE float exact_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = add(mul(x, __uint_as_float(0x3fb8aa3bu)), ROUND);
    float n = sub(shifted, ROUND);
    float r = sub(x, mul(n, __uint_as_float(0x3f318000u)));
    r = sub(r, mul(n, __uint_as_float(0xb95e8083u)));
    float p = __uint_as_float(0x39506967u);
    p = add(mul(p, r), __uint_as_float(0x3ab743ceu));
    p = add(mul(p, r), __uint_as_float(0x3c088908u));
    p = add(mul(p, r), __uint_as_float(0x3d2aa9c1u));
    p = add(mul(p, r), __uint_as_float(0x3e2aaaaau));
    p = add(mul(p, r), 0.5f);
    float y = add(add(mul(p, mul(r, r)), r), 1.0f);
    return mul(y, __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23)));
}

DEVICE float silu(float x) { return quotient(x, add(1.0f, exact_exp(-x))); }

DEVICE float exact_tanh(float x) {
    return sub(1.0f, quotient(2.0f, add(exact_exp(mul(2.0f, x)), 1.0f)));
}

DEVICE float gelu_tanh(float x) {
    float cube = mul(mul(x, x), x);
    float u = mul(__uint_as_float(0x3f4c422au), add(x, mul(__uint_as_float(0x3d372713u), cube)));
    return quotient(x, add(1.0f, exact_exp(mul(-2.0f, u))));
}

DEVICE float gelu_erf(float x) {
    float z = mul(x, __uint_as_float(0x3f3504f3u));
    float a = __uint_as_float(__float_as_uint(z) & 0x7fffffffu);
    float t = quotient(1.0f, add(1.0f, mul(__uint_as_float(0x3ea7ba05u), a)));
    float p = __uint_as_float(0x3f87dc22u);
    p = add(mul(p, t), __uint_as_float(0xbfba00e3u));
    p = add(mul(p, t), __uint_as_float(0x3fb5f0e3u));
    p = add(mul(p, t), __uint_as_float(0xbe91a98eu));
    p = add(mul(p, t), __uint_as_float(0x3e827906u));
    float e = sub(1.0f, mul(mul(p, t), exact_exp(-mul(a, a))));
    e = z < 0.0f ? -e : e;
    return mul(mul(0.5f, x), add(1.0f, e));
}

// Numbers of the functions between gate and up.
#define SILU 0
#define GELU_TANH 1
#define GELU_ERF 2

DEVICE float activation(int f, float x) {
    return f == SILU ? silu(x) : f == GELU_TANH ? gelu_tanh(x) : gelu_erf(x);
}

DEVICE float softcap(float cap, float x) { return mul(cap, exact_tanh(quotient(x, cap))); }

// f16 of a key or value: clamped, a NaN stays one.
DEVICE u16 to_half(float x) {
    x = x < -65504.0f ? -65504.0f : x;
    x = x > 65504.0f ? 65504.0f : x;
    return float_to_half(x);
}

// Sum of sixteen partial sums by the fixed tree; `lane(i)` gives the i-th.
DEVICE float tree(const float *lane) {
    float g[4];
    for (int i = 0; i < 4; i++)
        g[i] = add(add(lane[i], lane[i + 8]), add(lane[i + 4], lane[i + 12]));
    return add(add(g[0], g[2]), add(g[1], g[3]));
}
