/*-------------------------------------------------------------------------
 *
 * mutate_json.c
 *	  Change texts so that they stay JSON, or nearly so
 *
 * Bytes changed at random are mostly an error in the first token.  Half of
 * libFuzzer's changes are therefore made here, by whole values: they are
 * replaced, copied, wrapped, removed and renamed, and numbers, dates and strings
 * are made up that are near the limits of a type.
 *
 * IDENTIFICATION
 *	  test/fuzz/mutate_json.c
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT 8192

/* libFuzzer's, and what it calls. */
extern size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
extern size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size,
									  size_t max_size, unsigned int seed);

/* The names that the columns of fuzz_json.c look for, some of them escaped. */
static const char *const names[] = {
	"\"v\"", "\"v\"", "\"v\"", "\"a\"", "\"b\"", "\"c\"", "\"0\"", "\"1\"",
	"\"\\u0076\"", "\"\\u0061\"", "\"\303\251\"", "\"\\u00e9\"",
	"\"a\\\"\\\\\\n\"", "\"x\"", "\"\""
};

static const char *const values[] = {
	"null", "true", "false", "0", "-0", "-0.0", "1", "\"1\"", "\" 1\"", "\"\"", "{}", "[]",
	"32767", "32768", "-32768", "-32769", "2147483647", "-2147483648", "2147483648",
	"9223372036854775807", "-9223372036854775808", "9223372036854775808",
	"99999999999999999999", "1e2", "1E+400", "1e-400", "4.9e-324", "1.7976931348623157e308",
	"1.17549435e-38", "3.4028236e38", "16777217", "9007199254740993", "0.1", "1.005",
	"9999.99", "9999.995", "0.10", "1e131072", "1e-16383", "\"NaN\"", "\"Infinity\"",
	"\"-inf\"", "\"t\"", "\"yes\"", "\"off\"", "\"abc\"", "\"abc \"", "\"abcd\"",
	"\"\\\\x00ff\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"\\u0000\"", "\"\360\237\230\200\"",
	"\"infinity\"", "\"now\"", "\"2024-02-29\"", "\"2023-02-29\"", "\"0001-01-01\"",
	"\"2024-02-29T23:59:59.999999Z\"", "\"2024-02-29 24:00:00\"",
	"\"1969-12-31T23:59:60+15:59\"", "\"9999-12-31T00:00:00-15\"", "\"2024-10-27T02:30:00\"",
	"\"294276-12-31\"", "\"J2451187\"", "\"epoch\"", "\"4713-01-01 BC\"",
	"\"1 day -2 hours\"", "\"P1Y2M\"", "\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"",
	"\"{a0eebc999c0b4ef8bb6d6bb9bd380a11}\"", "{\"a\":{\"b\":1}}", "[1,[2],{\"b\":3}]"
};

static const char *const spaces[] = { " ", "\t", "\n", "\r", "  ", "\f", "\302\240" };

#define PICK(array) ((array)[rand_r(&state) % (sizeof(array) / sizeof((array)[0]))])

static unsigned int state; /* of rand_r() */

/* A part of a text. */
typedef struct Span
{
	size_t start;
	size_t len;
} Span;

typedef struct Text
{
	uint8_t *data;
	size_t size;
	size_t max_size;
} Text;

static void
replace(Text *text, Span span, const char *with, size_t len)
{
	size_t behind = span.start + span.len;

	if (text->size - span.len + len > text->max_size)
		return;
	memmove(text->data + span.start + len, text->data + behind,
			text->size - behind);
	memcpy(text->data + span.start, with, len);
	text->size += len - span.len;
}

static size_t
string_end(const Text *text, size_t p)
{
	for (p++; p < text->size; p++)
	{
		if (text->data[p] == '\\')
			p++;
		else if (text->data[p] == '"')
			return p + 1;
	}
	return text->size;
}

/* Behind the value at p, as well as can be told of what need not be JSON. */
static size_t
value_end(const Text *text, size_t p)
{
	int depth = 0;

	do
	{
		uint8_t c = text->data[p];

		if (c == '"')
			p = string_end(text, p);
		else if (depth == 0 && c != '{' && c != '[')
		{
			while (p < text->size && strchr(" \t\r\n,:[]{}\"", text->data[p]) == NULL)
				p++;
			return p;
		}
		else
		{
			depth += (c == '{' || c == '[') - (c == '}' || c == ']');
			p++;
		}
	} while (depth > 0 && p < text->size);
	return p;
}

/* Some value or name of the text; empty, somewhere, if none was met. */
static Span
random_value(const Text *text)
{
	Span span = { 0, 0 };
	size_t p = 0;
	int seen = 0;

	while (p < text->size)
	{
		uint8_t c = text->data[p];
		size_t end;

		if (c == '\0' || strchr(" \t\r\n,:]}", c) != NULL)
		{
			p++;
			continue;
		}
		end = value_end(text, p);
		if (end == p)
			end++;
		if (rand_r(&state) % ++seen == 0)
			span = (Span){ p, end - p };

		/* Brackets are looked into, too. */
		p = c == '{' || c == '[' ? p + 1 : end;
	}
	return span;
}

static size_t
make_number(char *buffer)
{
	size_t len = 0;
	int ndigits = 1 + rand_r(&state) % (rand_r(&state) % 8 == 0 ? 60 : 20);

	if (rand_r(&state) % 3 == 0)
		buffer[len++] = '-';
	for (int i = 0; i < ndigits; i++)
		buffer[len++] = '0' + (rand_r(&state) % 3 == 0 ? 0 : rand_r(&state) % 10);
	if (rand_r(&state) % 2 == 0)
	{
		buffer[len++] = '.';
		for (int i = rand_r(&state) % 20; i >= 0; i--)
			buffer[len++] = '0' + rand_r(&state) % 10;
	}
	if (rand_r(&state) % 4 == 0)
		len += sprintf(buffer + len, "e%d", (int) (rand_r(&state) % 700) - 350);
	return len;
}

static size_t
make_time(char *buffer)
{
	static const char *const zones[] = {
		"", "", "Z", "z", "+00", "-03", "+0530", "+05:30", "-15:59", "+16", " UTC",
		" Europe/Berlin", "+05:60", " BC"
	};
	size_t len = sprintf(buffer, "\"%04d-%02d-%02d", rand_r(&state) % 10000,
						 rand_r(&state) % 14, rand_r(&state) % 33);

	if (rand_r(&state) % 4 != 0)
		len += sprintf(buffer + len, "%c%02d:%02d:%02d", " TTt"[rand_r(&state) % 4],
					   rand_r(&state) % 26, rand_r(&state) % 61, rand_r(&state) % 62);
	if (rand_r(&state) % 2 == 0)
		len += sprintf(buffer + len, ".%0*d", 1 + (int) (rand_r(&state) % 8),
					   rand_r(&state) % 10000000);
	return len + sprintf(buffer + len, "%s\"", PICK(zones));
}

static void
put_new_value(Text *text, Span span)
{
	char buffer[256];
	const char *value = buffer;
	size_t len;

	switch (rand_r(&state) % 4)
	{
		case 0:
			len = make_number(buffer);
			break;
		case 1:
			len = make_time(buffer);
			break;
		default:
			value = PICK(values);
			len = strlen(value);
	}
	replace(text, span, value, len);
}

/* Put one of the text's values in the place of another, or beside it. */
static void
copy_value(Text *text, Span span, bool beside)
{
	char buffer[MAX_TEXT + 1];
	Span source = random_value(text);

	if (source.len > MAX_TEXT)
		return;
	memcpy(buffer, text->data + source.start, source.len);
	if (beside)
	{
		buffer[source.len++] = rand_r(&state) % 4 == 0 ? ':' : ',';
		span.len = 0;
	}
	replace(text, span, buffer, source.len);
}

/* Put brackets around a value, sometimes many. */
static void
wrap_value(Text *text, Span span)
{
	int times = rand_r(&state) % 16 == 0 ? rand_r(&state) % 1100 : 1;
	bool is_array = rand_r(&state) % 2 == 0;

	while (times-- > 0)
	{
		char opening[16] = "[";
		size_t before = text->size;

		if (!is_array)
			snprintf(opening, sizeof(opening), "{%s:", PICK(names));
		replace(text, (Span){ span.start + span.len, 0 }, is_array ? "]" : "}", 1);
		replace(text, (Span){ span.start, 0 }, opening, strlen(opening));
		if (text->size != before + strlen(opening) + 1)
			return;
		span.len += text->size - before;
	}
}

/* Write a character of a string as an escape. */
static void
escape_character(Text *text, Span span)
{
	char buffer[8];
	size_t place;

	if (span.len < 3 || text->data[span.start] != '"')
		return;
	place = span.start + 1 + rand_r(&state) % (span.len - 2);
	snprintf(buffer, sizeof(buffer), rand_r(&state) % 2 ? "\\u%04x" : "\\u%04X",
			 text->data[place]);
	replace(text, (Span){ place, 1 }, buffer, 6);
}

static void
mutate(Text *text)
{
	Span span = random_value(text);
	const char *with;

	switch (rand_r(&state) % 8)
	{
		case 0:
		case 1:
			put_new_value(text, span);
			break;
		case 2:
			copy_value(text, span, false);
			break;
		case 3:
			copy_value(text, span, true);
			break;
		case 4:
			wrap_value(text, span);
			break;
		case 5:
			escape_character(text, span);
			break;
		case 6:
			with = PICK(names);
			replace(text, span, with, strlen(with));
			break;
		default:
			with = rand_r(&state) % 2 ? PICK(spaces) : "";
			if (*with != '\0')
				span.len = 0;
			replace(text, span, with, strlen(with));
	}
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
						unsigned int seed)
{
	Text text = { data, size, max_size };

	state = seed;
	if (rand_r(&state) % 2 == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	for (int i = rand_r(&state) % 3; i >= 0; i--)
		mutate(&text);
	return text.size > 0 ? text.size : LLVMFuzzerMutate(data, size, max_size);
}
