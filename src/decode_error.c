/*-------------------------------------------------------------------------
 *
 * decode_error.c
 *	  Which message, which column, which bytes an error is about
 *
 * IDENTIFICATION
 *	  src/decode_error.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode_error.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "postgres_ext.h"

/* How much of a value is shown with an error, in bytes. */
#define EXCERPT_LENGTH 64

/* By KappaJsonError.  SQLSTATEs are those that jsonb has for the same fault. */
static const struct
{
	const char *reason;
	int sqlstate;
} json_errors[] = {
	[KAPPA_JSON_EMPTY] = { "there is no value", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_TOO_LONG] = { "the text is too long", ERRCODE_PROGRAM_LIMIT_EXCEEDED },
	[KAPPA_JSON_TOO_DEEP] = { "arrays and objects are nested too deeply", ERRCODE_PROGRAM_LIMIT_EXCEEDED },
	[KAPPA_JSON_BAD_UTF8] = { "invalid byte for UTF-8", ERRCODE_CHARACTER_NOT_IN_REPERTOIRE },
	[KAPPA_JSON_UNFINISHED] = { "the text ends too early", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_UNFINISHED_STRING] = { "string without end", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_CONTROL_CHARACTER] = { "control character in a string", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_BAD_ESCAPE] = { "invalid escape sequence", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_NUL_ESCAPE] = { "\\u0000 cannot be converted to text", ERRCODE_UNTRANSLATABLE_CHARACTER },
	[KAPPA_JSON_BAD_SURROGATE] = { "surrogate without its other half", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_BAD_NUMBER] = { "invalid number", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_NO_VALUE] = { "expected a value", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_NO_NAME] = { "expected the name of a member", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_NO_COLON] = { "expected a colon", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_NO_COMMA] = { "expected a comma or the closing bracket", ERRCODE_INVALID_TEXT_REPRESENTATION },
	[KAPPA_JSON_TRAILING] = { "unexpected character after the value", ERRCODE_INVALID_TEXT_REPRESENTATION },
};

/* A character that max would split is left out. */
static void
append_printable(StringInfo buf, const char *bytes, Size len, Size max)
{
	const unsigned char *p = (const unsigned char *) bytes;
	const unsigned char *end = p + Min(len, max);

	while (p < end)
	{
		int char_len = pg_utf_mblen(p);

		if (char_len > end - p && len > max)
			break;
		if (*p < 0x20 || *p == 0x7f || char_len > end - p ||
			!pg_utf8_islegal(p, char_len))
			appendStringInfo(buf, "\\x%02x", *p++);
		else
		{
			appendBinaryStringInfo(buf, (const char *) p, char_len);
			p += char_len;
		}
	}
	if (len > max)
		appendStringInfoString(buf, "...");
}

void
kappa_decode_error_append(StringInfo buf, const char *bytes, Size len)
{
	append_printable(buf, bytes, len, len);
}

static void report_subject(void *arg);

/* A function that a conversion calls may read another topic; an error names one column. */
static bool
is_innermost(const KappaErrorSubject *subject)
{
	ErrorContextCallback *callback = error_context_stack;

	while (callback->callback != report_subject)
		callback = callback->previous;
	return callback->arg == subject;
}

static void
report_subject(void *arg)
{
	const KappaErrorSubject *subject = arg;
	const KappaMessage *message = subject->message;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "topic \"%s\", partition %d, offset " INT64_FORMAT,
					 subject->topic, message->partition, message->offset);
	if (subject->column != NULL)
	{
		appendStringInfo(&buf, ", column \"%s\"", subject->column);
		if (is_innermost(subject))
			err_generic_string(PG_DIAG_COLUMN_NAME, subject->column);
	}
	if (subject->bytes != NULL)
	{
		appendStringInfoString(&buf, ": ");
		append_printable(&buf, subject->bytes, subject->len, EXCERPT_LENGTH);
	}
	errcontext("%s", buf.data);
	pfree(buf.data);
}

void
kappa_decode_error_push(KappaErrorSubject *subject)
{
	subject->callback.callback = report_subject;
	subject->callback.arg = subject;
	subject->callback.previous = error_context_stack;
	error_context_stack = &subject->callback;
}

void
kappa_decode_error_pop(const KappaErrorSubject *subject)
{
	error_context_stack = subject->callback.previous;
}

void
kappa_decode_error_describe(KappaMalformed *malformed, KappaJsonError error, int64 position,
							bool in_key, const char *text, Size len)
{
	int valid;

	if (error == KAPPA_JSON_NO_MEMORY)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Could not parse a JSON text of %zu bytes.", len)));

	/*
	 * What is not UTF-8 is wrong first of all.  The parser may have met another
	 * fault before, or taken a zero byte for one, which jsonb never sees.
	 */
	valid = pg_encoding_verifymbstr(PG_UTF8, text, len);
	if (valid < len && error != KAPPA_JSON_TOO_LONG)
	{
		error = KAPPA_JSON_BAD_UTF8;
		position = valid;
	}

	malformed->reason = json_errors[error].reason;
	malformed->sqlstate = json_errors[error].sqlstate;
	malformed->in_key = in_key;
	malformed->position = (int) position;
}
