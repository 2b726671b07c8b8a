/*-------------------------------------------------------------------------
 *
 * decode_scalar.c
 *	  Fast conversions from text to the common types
 *
 * The input functions of PostgreSQL know many forms of a value that messages
 * hardly ever use, and need a NUL-terminated copy to look at.  For timestamps
 * alone that costs more than parsing the whole message.  What is recognised
 * here is narrow on purpose: a form is either converted exactly or not at all.
 *
 * IDENTIFICATION
 *	  src/decode_scalar.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "decode_json.h"
#include "decode_scalar.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* Decimal digits that always fit into an int64. */
#define MAX_INT64_DIGITS 18

/* Longer numbers are left to numeric_in, which knows its own limits. */
#define MAX_PLAIN_NUMBER 1000

static const int64 powers_of_10[MAX_INT64_DIGITS + 1] = {
	1,
	10,
	100,
	1000,
	10000,
	100000,
	1000000,
	10000000,
	100000000,
	1000000000,
	INT64CONST(10000000000),
	INT64CONST(100000000000),
	INT64CONST(1000000000000),
	INT64CONST(10000000000000),
	INT64CONST(100000000000000),
	INT64CONST(1000000000000000),
	INT64CONST(10000000000000000),
	INT64CONST(100000000000000000),
	INT64CONST(1000000000000000000),
};

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

KappaScalar
kappa_scalar_for_type(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return KAPPA_SCALAR_BOOL;
		case INT2OID:
			return KAPPA_SCALAR_INT2;
		case INT4OID:
			return KAPPA_SCALAR_INT4;
		case INT8OID:
			return KAPPA_SCALAR_INT8;
		case FLOAT4OID:
			return KAPPA_SCALAR_FLOAT4;
		case FLOAT8OID:
			return KAPPA_SCALAR_FLOAT8;
		case NUMERICOID:
			return KAPPA_SCALAR_NUMERIC;
		case TEXTOID:
		case VARCHAROID:
			return KAPPA_SCALAR_TEXT;
		case DATEOID:
			return KAPPA_SCALAR_DATE;
		case TIMESTAMPOID:
			return KAPPA_SCALAR_TIMESTAMP;
		case TIMESTAMPTZOID:
			return KAPPA_SCALAR_TIMESTAMPTZ;
		case UUIDOID:
			return KAPPA_SCALAR_UUID;
		default:
			return KAPPA_SCALAR_NONE;
	}
}

static bool
convert_bool(const char *text, Size len, Datum *result)
{
	if (len == 4 && memcmp(text, "true", 4) == 0)
		*result = BoolGetDatum(true);
	else if (len == 5 && memcmp(text, "false", 5) == 0)
		*result = BoolGetDatum(false);
	else
		return false;
	return true;
}

/*
 * An integer of at most 19 digits within the bounds.  The sum cannot wrap
 * around: the largest number of 19 digits fits into a uint64.
 */
static bool
parse_integer(const char *text, Size len, int64 min, int64 max, int64 *result)
{
	bool negative = len > 0 && text[0] == '-';
	const char *p = text + (negative ? 1 : 0);
	const char *end = text + len;
	uint64 sum = 0;

	if (p == end || end - p > MAX_INT64_DIGITS + 1)
		return false;
	for (; p < end; p++)
	{
		if (!is_digit(*p))
			return false;
		sum = sum * 10 + (*p - '0');
	}

	if (negative)
	{
		if (sum > (uint64) - (min + 1) + 1)
			return false;
		*result = (int64) -sum;
	}
	else
	{
		if (sum > (uint64) max)
			return false;
		*result = (int64) sum;
	}
	return true;
}

static bool
convert_integer(KappaScalar scalar, const char *text, Size len, Datum *result)
{
	int64 value;

	switch (scalar)
	{
		case KAPPA_SCALAR_INT2:
			if (!parse_integer(text, len, PG_INT16_MIN, PG_INT16_MAX, &value))
				return false;
			*result = Int16GetDatum((int16) value);
			return true;
		case KAPPA_SCALAR_INT4:
			if (!parse_integer(text, len, PG_INT32_MIN, PG_INT32_MAX, &value))
				return false;
			*result = Int32GetDatum((int32) value);
			return true;
		default:
			if (!parse_integer(text, len, PG_INT64_MIN, PG_INT64_MAX, &value))
				return false;
			*result = Int64GetDatum(value);
			return true;
	}
}

/* "zero" is what to add: numbers of JSON have no negative zero, text has. */
static bool
convert_float(KappaScalar scalar, const char *text, Size len, double zero,
			  Datum *result)
{
	if (scalar == KAPPA_SCALAR_FLOAT4)
	{
		float value;

		if (!kappa_json_float4(text, len, &value))
			return false;
		*result = Float4GetDatum(value + (float) zero);
	}
	else
	{
		double value;

		if (!kappa_json_float8(text, len, &value))
			return false;
		*result = Float8GetDatum(value + zero);
	}
	return true;
}

/*
 * Fit digits with "scale" of them behind the point into numeric(p,s) without
 * rounding.  *value becomes the number times 10^s.
 */
static bool
fit_numeric(int32 typmod, int ndigits, int *scale, int64 *value)
{
	int max_precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
	int max_scale = (typmod - VARHDRSZ) & 0x7ff;
	int widened = ndigits - *scale + max_scale;

	/* The highest bit of the scale is its sign; leave those cases alone. */
	if (max_scale > 1000 || *scale > max_scale || widened > max_precision ||
		widened > MAX_INT64_DIGITS)
		return false;
	*value *= powers_of_10[max_scale - *scale];
	*scale = max_scale;
	return true;
}

/* A decimal number of at most 18 digits, without an exponent. */
static bool
convert_numeric(const char *text, Size len, int32 typmod, Datum *result)
{
	bool negative = len > 0 && text[0] == '-';
	const char *p = text + (negative ? 1 : 0);
	const char *end = text + len;
	const char *point = NULL;
	int ndigits = 0;
	int64 value = 0;
	int scale;

	if (p == end || end - p > MAX_INT64_DIGITS + 1 || !is_digit(*p))
		return false;
	for (; p < end; p++)
	{
		if (is_digit(*p))
		{
			if (++ndigits > MAX_INT64_DIGITS)
				return false;
			value = value * 10 + (*p - '0');
		}
		else if (*p == '.' && point == NULL)
			point = p;
		else
			return false;
	}
	if (point == end - 1)
		return false;

	scale = point ? end - point - 1 : 0;
	if (typmod >= (int32) VARHDRSZ &&
		!fit_numeric(typmod, ndigits, &scale, &value))
		return false;
	*result = NumericGetDatum(int64_div_fast_to_numeric(negative ? -value : value,
														scale));
	return true;
}

/* varchar(n) too long is an error, or trailing spaces to cut off: not here. */
static bool
convert_text(const char *text, Size len, int32 typmod, Datum *result)
{
	if (typmod >= (int32) VARHDRSZ)
	{
		Size max_len = typmod - VARHDRSZ;

		if (len > max_len && pg_mbstrlen_with_len(text, len) > max_len)
			return false;
	}
	*result = PointerGetDatum(cstring_to_text_with_len(text, len));
	return true;
}

/* Two digits, or -1. */
static inline int
two_digits(const char *p)
{
	if (!is_digit(p[0]) || !is_digit(p[1]))
		return -1;
	return (p[0] - '0') * 10 + (p[1] - '0');
}

/* YYYY-MM-DD, years 0001 to 9999; days since 2000-01-01. */
static bool
parse_date(const char *p, DateADT *result)
{
	int century = two_digits(p);
	int year = two_digits(p + 2);
	int month = two_digits(p + 5);
	int day = two_digits(p + 8);

	if (century < 0 || year < 0 || p[4] != '-' || p[7] != '-')
		return false;
	year += century * 100;
	if (year < 1 || month < 1 || month > MONTHS_PER_YEAR || day < 1 ||
		day > day_tab[isleap(year)][month - 1])
		return false;
	*result = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

/*
 * HH:MM:SS with up to six decimals; microseconds since midnight.  24:00:00 and
 * second 60 are left to PostgreSQL.  Moves *p behind what was read.
 */
static bool
parse_time(const char **p, const char *end, int32 typmod, int64 *result)
{
	const char *s = *p;
	int hour, minute, second;
	int ndecimals = 0;
	int micros = 0;

	if (end - s < 8 || s[2] != ':' || s[5] != ':')
		return false;
	hour = two_digits(s);
	minute = two_digits(s + 3);
	second = two_digits(s + 6);
	if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 ||
		second > 59)
		return false;
	s += 8;

	if (s < end && *s == '.')
	{
		for (s++; s < end && is_digit(*s); s++)
		{
			if (++ndecimals > 6)
				return false;
			micros = micros * 10 + (*s - '0');
		}
		if (ndecimals == 0 || (typmod >= 0 && ndecimals > typmod))
			return false;
		micros *= powers_of_10[6 - ndecimals];
	}

	*result = ((hour * MINS_PER_HOUR + minute) * INT64CONST(60) + second) *
				  USECS_PER_SEC +
			  micros;
	*p = s;
	return true;
}

/* Z, or +hh, +hhmm, +hh:mm and the same with -; microseconds east of UTC. */
static bool
parse_zone(const char *p, const char *end, int64 *result)
{
	int hour, minute = 0;

	if (end - p == 1 && *p == 'Z')
	{
		*result = 0;
		return true;
	}
	if (end - p < 3 || (*p != '+' && *p != '-'))
		return false;
	hour = two_digits(p + 1);
	if (end - p == 5)
		minute = two_digits(p + 3);
	else if (end - p == 6 && p[3] == ':')
		minute = two_digits(p + 4);
	else if (end - p != 3)
		return false;
	if (hour < 0 || hour > MAX_TZDISP_HOUR || minute < 0 || minute > 59)
		return false;

	*result = (hour * MINS_PER_HOUR + minute) * USECS_PER_MINUTE;
	if (*p == '-')
		*result = -*result;
	return true;
}

/*
 * YYYY-MM-DD, then T or a space, time and zone.  Without a zone the meaning of
 * a timestamptz depends on a setting, so it goes the long way.  A timestamp
 * without time zone ignores a zone, as PostgreSQL does.
 */
static bool
convert_timestamp(KappaScalar scalar, const char *text, Size len, int32 typmod,
				  Datum *result)
{
	const char *p;
	const char *end = text + len;
	DateADT date;
	int64 time;
	int64 zone = 0;

	if (len < 19 || (text[10] != 'T' && text[10] != ' ') ||
		!parse_date(text, &date))
		return false;
	p = text + 11;
	if (!parse_time(&p, end, typmod, &time))
		return false;
	if (p == end)
	{
		if (scalar == KAPPA_SCALAR_TIMESTAMPTZ)
			return false;
	}
	else if (!parse_zone(p, end, &zone))
		return false;
	if (scalar == KAPPA_SCALAR_TIMESTAMP)
		zone = 0;

	*result = TimestampTzGetDatum(date * USECS_PER_DAY + time - zone);
	return true;
}

static bool
convert_date(const char *text, Size len, Datum *result)
{
	DateADT date;

	if (len != 10 || !parse_date(text, &date))
		return false;
	*result = DateADTGetDatum(date);
	return true;
}

/* The value of a hexadecimal digit, or -1. */
static inline int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* 8-4-4-4-12 hexadecimal digits. */
static bool
convert_uuid(const char *text, Size len, Datum *result)
{
	pg_uuid_t uuid;
	pg_uuid_t *copy;
	const char *p = text;

	if (len != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' ||
		text[23] != '-')
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high, low;

		if (*p == '-')
			p++;
		high = hex_digit(p[0]);
		low = hex_digit(p[1]);
		if (high < 0 || low < 0)
			return false;
		uuid.data[i] = (high << 4) | low;
		p += 2;
	}

	copy = palloc(sizeof(pg_uuid_t));
	*copy = uuid;
	*result = UUIDPGetDatum(copy);
	return true;
}

bool
kappa_scalar_from_text(KappaScalar scalar, int32 typmod, const char *text,
					   Size len, Datum *result)
{
	switch (scalar)
	{
		case KAPPA_SCALAR_NONE:
			return false;
		case KAPPA_SCALAR_BOOL:
			return convert_bool(text, len, result);
		case KAPPA_SCALAR_INT2:
		case KAPPA_SCALAR_INT4:
		case KAPPA_SCALAR_INT8:
			return convert_integer(scalar, text, len, result);
		case KAPPA_SCALAR_FLOAT4:
		case KAPPA_SCALAR_FLOAT8:
			return convert_float(scalar, text, len, -0.0, result);
		case KAPPA_SCALAR_NUMERIC:
			return convert_numeric(text, len, typmod, result);
		case KAPPA_SCALAR_TEXT:
			return convert_text(text, len, typmod, result);
		case KAPPA_SCALAR_DATE:
			return convert_date(text, len, result);
		case KAPPA_SCALAR_TIMESTAMP:
		case KAPPA_SCALAR_TIMESTAMPTZ:
			return convert_timestamp(scalar, text, len, typmod, result);
		case KAPPA_SCALAR_UUID:
			return convert_uuid(text, len, result);
	}
	return false;
}

bool
kappa_scalar_is_plain_number(const char *text, Size len)
{
	bool nonzero = false;

	if (len > MAX_PLAIN_NUMBER)
		return false;
	for (Size i = 0; i < len; i++)
	{
		if (text[i] == 'e' || text[i] == 'E')
			return false;
		nonzero |= text[i] >= '1' && text[i] <= '9';
	}

	/* There is no negative zero in numeric. */
	return nonzero || text[0] != '-';
}

bool
kappa_scalar_from_number(KappaScalar scalar, int32 typmod, const char *text,
						 Size len, Datum *result)
{
	switch (scalar)
	{
		case KAPPA_SCALAR_INT2:
		case KAPPA_SCALAR_INT4:
		case KAPPA_SCALAR_INT8:
			return convert_integer(scalar, text, len, result);
		case KAPPA_SCALAR_FLOAT4:
		case KAPPA_SCALAR_FLOAT8:
			return len <= MAX_PLAIN_NUMBER &&
				   convert_float(scalar, text, len, 0.0, result);
		case KAPPA_SCALAR_NUMERIC:
			return convert_numeric(text, len, typmod, result);
		case KAPPA_SCALAR_TEXT:
			return kappa_scalar_is_plain_number(text, len) &&
				   convert_text(text, len, typmod, result);
		default:
			return false;
	}
}
