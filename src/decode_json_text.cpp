/*-------------------------------------------------------------------------
 *
 * decode_json_text.cpp
 *	  What the strings and numbers of a JSON text stand for
 *
 * IDENTIFICATION
 *	  src/decode_json_text.cpp
 *
 *-------------------------------------------------------------------------
 */
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>

extern "C"
{
#include "decode_json.h"
}

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

/* Value of four hexadecimal digits, or -1. */
static int
hex4(const char *p, const char *end)
{
	int result = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char c = p[i];

		result <<= 4;
		if (is_digit(c))
			result += c - '0';
		else if (c >= 'a' && c <= 'f')
			result += c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			result += c - 'A' + 10;
		else
			return -1;
	}
	return result;
}

static inline bool
is_high_surrogate(int c)
{
	return (c & ~0x3ff) == 0xd800;
}

static inline bool
is_low_surrogate(int c)
{
	return (c & ~0x3ff) == 0xdc00;
}

/* Check one \u escape; p is at its backslash.  Moves p behind it. */
static KappaJsonError
check_unicode_escape(const char *&p, const char *end)
{
	int c = hex4(p + 2, end);

	if (c < 0)
		return KAPPA_JSON_BAD_ESCAPE;
	if (c == 0)
		return KAPPA_JSON_NUL_ESCAPE;
	if (is_low_surrogate(c))
		return KAPPA_JSON_BAD_SURROGATE;
	if (is_high_surrogate(c))
	{
		if (end - p < 12 || p[6] != '\\' || p[7] != 'u' ||
			!is_low_surrogate(hex4(p + 8, end)))
			return KAPPA_JSON_BAD_SURROGATE;
		p += 6;
	}
	p += 6;
	return KAPPA_JSON_OK;
}

KappaJsonError
kappa_json_check_escapes(const char **p, const char *end)
{
	KappaJsonError error;

	for (const char *s = *p; s != nullptr;
		 s = (const char *) memchr(s, '\\', end - s))
	{
		*p = s;

		/* A string's last character cannot be a backslash of its own. */
		switch (s[1])
		{
			case '"':
			case '\\':
			case '/':
			case 'b':
			case 'f':
			case 'n':
			case 'r':
			case 't':
				s += 2;
				break;
			case 'u':
				error = check_unicode_escape(s, end);
				if (error != KAPPA_JSON_OK)
					return error;
				break;
			default:
				return KAPPA_JSON_BAD_ESCAPE;
		}
	}
	return KAPPA_JSON_OK;
}

/* Append a code point in UTF-8. */
static char *
put_utf8(char *dest, int c)
{
	if (c < 0x80)
		*dest++ = (char) c;
	else if (c < 0x800)
	{
		*dest++ = (char) (0xc0 | (c >> 6));
		*dest++ = (char) (0x80 | (c & 0x3f));
	}
	else if (c < 0x10000)
	{
		*dest++ = (char) (0xe0 | (c >> 12));
		*dest++ = (char) (0x80 | ((c >> 6) & 0x3f));
		*dest++ = (char) (0x80 | (c & 0x3f));
	}
	else
	{
		*dest++ = (char) (0xf0 | (c >> 18));
		*dest++ = (char) (0x80 | ((c >> 12) & 0x3f));
		*dest++ = (char) (0x80 | ((c >> 6) & 0x3f));
		*dest++ = (char) (0x80 | (c & 0x3f));
	}
	return dest;
}

/* The character that a one-letter escape stands for. */
static inline char
simple_escape(char c)
{
	switch (c)
	{
		case 'b':
			return '\b';
		case 'f':
			return '\f';
		case 'n':
			return '\n';
		case 'r':
			return '\r';
		case 't':
			return '\t';
		default:
			return c; /* a quote, slash or backslash */
	}
}

size_t
kappa_json_unescape(const char *string, size_t len, char *dest)
{
	const char *p = string;
	const char *end = string + len;
	char *d = dest;

	while (p < end)
	{
		if (*p != '\\')
			*d++ = *p++;
		else if (p[1] != 'u')
		{
			*d++ = simple_escape(p[1]);
			p += 2;
		}
		else
		{
			int c = hex4(p + 2, end);

			p += 6;
			if (is_high_surrogate(c))
			{
				c = 0x10000 + ((c & 0x3ff) << 10) + (hex4(p + 2, end) & 0x3ff);
				p += 6;
			}
			d = put_utf8(d, c);
		}
	}
	return d - dest;
}

/* True if a number's digits are all zero. */
static bool
is_exact_zero(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (p[i] == 'e' || p[i] == 'E' || (p[i] >= '1' && p[i] <= '9'))
			return false;
	}
	return true;
}

/* Both are correctly rounded, as strtod() is, but know nothing of locales. */
template <typename T>
static bool
parse_float(const char *text, size_t len, T *result)
{
	std::from_chars_result r;

	/* Leave "inf" and "nan" to others. */
	if (len == 0 || !(is_digit(text[0]) ||
					  (text[0] == '-' && len > 1 && is_digit(text[1]))))
		return false;

	r = std::from_chars(text, text + len, *result);
	if (r.ec != std::errc() || r.ptr != text + len || std::isinf(*result))
		return false;
	return *result != 0 || is_exact_zero(text, len);
}

/* Up to eight bytes as a number, the first one lowest. */
static inline uint64_t
load_short(const char *p, size_t len)
{
	uint64_t result = 0;

	if (len < 4)
	{
		for (size_t i = 0; i < len; i++)
			result |= (uint64_t) (unsigned char) p[i] << (8 * i);
		return result;
	}
	for (size_t i = 0; i < 4; i++)
	{
		result |= (uint64_t) (unsigned char) p[i] << (8 * i);
		result |= (uint64_t) (unsigned char) p[len - 4 + i] << (8 * (len - 4 + i));
	}
	return result;
}

/*
 * The highest bit of each byte that is no digit, of bytes less '0'.  That of one
 * above such a byte may be set, too.
 */
static inline uint64_t
find_no_digit(uint64_t digits)
{
	return ((digits + UINT64_C(0x7676767676767676)) | digits) &
		   UINT64_C(0x8080808080808080);
}

/* The number that eight digits are, each in a byte, the first one lowest. */
static inline uint32_t
join_digits(uint64_t digits)
{
	const uint64_t pair = UINT64_C(0x000000ff000000ff);

	digits = digits * 10 + (digits >> 8);
	return (uint32_t) (((digits & pair) * (100 + (UINT64_C(1000000) << 32)) +
						((digits >> 16) & pair) * (1 + (UINT64_C(10000) << 32))) >>
					   32);
}

/*
 * A decimal number of at most eight characters, without an exponent.  Both its
 * digits and the power of ten are exact floats, so the quotient is correctly
 * rounded.  Digits are joined without a loop, which would run for another
 * number of times for each value.
 */
static inline bool
parse_short_float(const char *text, size_t len, double *result)
{
	static const double powers_of_10[] = { 1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7 };
	bool negative = len > 0 && text[0] == '-';
	size_t ndecimals = 0;
	uint64_t digits;
	uint64_t others;
	double value;

	text += negative;
	len -= negative;
	if (len == 0 || len > 8)
		return false;

	digits = load_short(text, len) ^ (UINT64_C(0x3030303030303030) >> (8 * (8 - len)));
	others = find_no_digit(digits);
	if (others != 0)
	{
		int point = __builtin_ctzll(others) / 8;
		uint64_t integer = (UINT64_C(1) << (8 * point)) - 1;

		ndecimals = len - 1 - point;
		if (text[point] != '.' || point == 0 || ndecimals == 0)
			return false;
		digits = (digits & integer) | ((digits >> 8) & ~integer);
		if (find_no_digit(digits) != 0)
			return false;
		len--;
	}
	value = join_digits(digits << (8 * (8 - len))) / powers_of_10[ndecimals];
	*result = negative ? -value : value;
	return true;
}

bool
kappa_json_float8(const char *text, size_t len, double *result)
{
	return parse_short_float(text, len, result) || parse_float(text, len, result);
}

bool
kappa_json_float4(const char *text, size_t len, float *result)
{
	return parse_float(text, len, result);
}
