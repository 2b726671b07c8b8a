/*-------------------------------------------------------------------------
 *
 * decode_json.cpp
 *	  One pass over a JSON text: is it well-formed, and where are the fields
 *
 * Two stages, as in simdjson, whose first stage does the work that pays with
 * vector instructions: it checks UTF-8, finds strings that do not end and
 * control characters inside them, and lists the position of every token (a
 * bracket, colon or comma, the opening quote of a string, the first character
 * of anything else).  The second stage here walks that list once and checks
 * the grammar.  simdjson's own second stages either build a document or leave
 * the parts that nobody asks for unchecked; the walk does neither, and so is
 * strict and cheap at once.
 *
 * What the walk relies on: between two tokens there is only white space, apart
 * from the rest of the first token.  A string therefore ends at the last
 * character before the next token that is not white space, and a number or
 * word must be followed by white space, a token or the end.  In this stage
 * some control characters count as brackets or commas, so every token is
 * looked at before it is believed.
 *
 * Texts that look like earlier ones do not come here: decode_json_shape.cpp
 * recognises them.
 *
 * Stage 1 reads nothing beyond the text (it copies the last block), and the
 * walk does not either.
 *
 * Compiled without exceptions and RTTI; memory comes from the nothrow operator
 * new, and running out of it is reported as an error code.
 *
 * IDENTIFICATION
 *	  src/decode_json.cpp
 *
 *-------------------------------------------------------------------------
 */
#include <cstring>
#include <memory>
#include <new>

#include <simdjson.h>

extern "C"
{
#include "decode_json.h"
#include "decode_json_shape.h"
}

using simdjson::internal::dom_parser_implementation;

/* The smallest index, in bytes of text, and the largest that is kept. */
static const size_t MIN_CAPACITY = 4096;
static const size_t MAX_KEPT_CAPACITY = 1024 * 1024;

/* An object or array that is open. */
struct Level
{
	const KappaJsonNode *node; /* NULL: nothing inside is wanted */
	const char *start;
	int32_t index; /* of the element being read */
	bool is_array;
};

struct KappaJsonParser
{
	std::unique_ptr<dom_parser_implementation> stage1;
	size_t capacity;
	Level levels[KAPPA_JSON_MAX_DEPTH];
};

/* The text being walked. */
struct Walk
{
	const char *text;
	const char *end;
	const uint32_t *token; /* the next one */
	const uint32_t *last;  /* behind the last one; holds the text's length */
	bool has_backslash;    /* anywhere in the text */
	const KappaJsonPaths *paths;
	KappaJsonValue *values;
	const char *wrong; /* where the text goes wrong */
};

static inline bool
is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static inline bool
is_delimiter(char c)
{
	switch (c)
	{
		case ' ':
		case '\n':
		case '\t':
		case '\r':
		case ',':
		case ':':
		case '{':
		case '}':
		case '[':
		case ']':
			return true;
		default:
			return false;
	}
}

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

/*
 * The string whose opening quote is at "quote" and whose next token is at
 * "next".
 */
static inline KappaJsonError
read_string(Walk &walk, const char *quote, const char *next,
			KappaJsonValue *value)
{
	const char *end = next - 1;

	while (is_space(*end))
		end--;

	value->start = quote + 1;
	value->len = (uint32_t) (end - value->start);
	value->kind = KAPPA_JSON_STRING;
	value->escaped = false;

	if (walk.has_backslash)
	{
		const char *p = (const char *) memchr(value->start, '\\', value->len);

		if (p != nullptr)
		{
			KappaJsonError error = kappa_json_check_escapes(&p, end);

			value->escaped = true;
			walk.wrong = p;
			return error;
		}
	}
	return KAPPA_JSON_OK;
}

/*
 * The end of the number at p, or NULL.  Unless "bounded", the text is known to
 * go on behind the number.
 */
template <bool bounded>
static inline const char *
read_number(const char *p, const char *end)
{
	auto digits = [&]()
	{
		const char *first = p;

		while ((!bounded || p < end) && is_digit(*p))
			p++;
		return p > first;
	};
	auto at = [&](char c)
	{
		return (!bounded || p < end) && *p == c;
	};

	if (*p == '-')
		p++;
	if (at('0'))
		p++;
	else if (!digits())
		return nullptr;
	if (at('.'))
	{
		p++;
		if (!digits())
			return nullptr;
	}
	if (at('e') || at('E'))
	{
		p++;
		if (at('+') || at('-'))
			p++;
		if (!digits())
			return nullptr;
	}
	return p;
}

static inline const char *
read_word(const char *p, const char *end, const char *word, size_t len)
{
	if ((size_t) (end - p) < len || memcmp(p, word, len) != 0)
		return nullptr;
	return p + len;
}

/* A number, true, false or null at p. */
template <bool bounded>
static inline KappaJsonError
read_atom(Walk &walk, const char *p, KappaJsonValue *value)
{
	KappaJsonError error = KAPPA_JSON_NO_VALUE;
	const char *end;

	value->start = p;
	value->escaped = false;
	switch (*p)
	{
		case 't':
			value->kind = KAPPA_JSON_TRUE;
			end = read_word(p, walk.end, "true", 4);
			break;
		case 'f':
			value->kind = KAPPA_JSON_FALSE;
			end = read_word(p, walk.end, "false", 5);
			break;
		case 'n':
			value->kind = KAPPA_JSON_NULL;
			end = read_word(p, walk.end, "null", 4);
			break;
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			value->kind = KAPPA_JSON_NUMBER;
			error = KAPPA_JSON_BAD_NUMBER;
			end = read_number<bounded>(p, walk.end);
			break;
		default:
			end = nullptr;
	}

	if (end == nullptr || ((!bounded || end < walk.end) && !is_delimiter(*end)))
	{
		walk.wrong = p;
		return error;
	}
	value->len = (uint32_t) (end - p);
	return KAPPA_JSON_OK;
}

static inline void
forget_values(KappaJsonValue *values, const KappaJsonNode *node)
{
	for (int i = node->first_slot; i < node->end_slot; i++)
		values[i].kind = KAPPA_JSON_MISSING;
}

/* The child of a node that a member of an object stands for, or NULL. */
static inline const KappaJsonNode *
find_member(const Walk &walk, const KappaJsonNode *node,
			const KappaJsonValue &name)
{
	const char *start = name.start;
	uint32_t len = name.len;

	if (name.escaped)
	{
		if (len > 6 * walk.paths->max_name_len)
			return nullptr;
		len = kappa_json_unescape(start, len, walk.paths->scratch);
		start = walk.paths->scratch;
	}

	for (uint32_t h = kappa_json_hash(start, len);; h++)
	{
		const KappaJsonNode *child = node->members[h & node->mask];

		if (child == nullptr)
			return nullptr;
		if (child->name_len == len && memcmp(child->name, start, len) == 0)
			return child;
	}
}

/* The child of a node that an element of an array stands for, or NULL. */
static inline const KappaJsonNode *
find_element(const KappaJsonNode *node, int32_t index)
{
	if (index > node->max_index)
		return nullptr;
	for (int i = 0; i < node->nchildren; i++)
	{
		if (node->children[i]->index == index)
			return node->children[i];
	}
	return nullptr;
}

/* Note where an object or array stands, if it is wanted as a whole. */
static inline void
keep_container(Walk &walk, const Level *level, const char *end)
{
	KappaJsonValue *value;

	if (level->node == nullptr || level->node->slot < 0)
		return;
	value = &walk.values[level->node->slot];
	value->start = level->start;
	value->len = (uint32_t) (end - level->start);
	value->kind = level->is_array ? KAPPA_JSON_ARRAY : KAPPA_JSON_OBJECT;
	value->escaped = false;
}

static inline KappaJsonError
fail(Walk &walk, const char *p, KappaJsonError error)
{
	walk.wrong = p;
	return error;
}

/* Move p to the next token; false if there is none. */
template <bool bounded>
static inline bool
next_token(Walk &walk, const char *&p)
{
	p = walk.text + *walk.token;
	if (bounded && walk.token == walk.last)
		return false;
	walk.token++;
	return true;
}

/* A string, number or word at p, and keep it if it is wanted. */
template <bool bounded>
static inline KappaJsonError
read_scalar(Walk &walk, const char *p, const KappaJsonNode *want)
{
	KappaJsonValue value;
	KappaJsonError error;

	if (*p == '"')
		error = read_string(walk, p, walk.text + *walk.token, &value);
	else
		error = read_atom<bounded>(walk, p, &value);
	if (error == KAPPA_JSON_OK && want != nullptr && want->slot >= 0)
		walk.values[want->slot] = value;
	return error;
}

/* The name of a member at p, and what is wanted of its value. */
template <bool bounded>
static inline KappaJsonError
read_name(Walk &walk, const char *p, const KappaJsonNode *node,
		  const KappaJsonNode **want)
{
	KappaJsonValue name;
	KappaJsonError error;

	if (*p != '"')
		return fail(walk, p, KAPPA_JSON_NO_NAME);
	error = read_string(walk, p, walk.text + *walk.token, &name);
	if (error != KAPPA_JSON_OK)
		return error;
	if (!next_token<bounded>(walk, p))
		return fail(walk, p, KAPPA_JSON_UNFINISHED);
	if (*p != ':')
		return fail(walk, p, KAPPA_JSON_NO_COLON);
	*want = node ? find_member(walk, node, name) : nullptr;
	return KAPPA_JSON_OK;
}

/*
 * Walk a text that is an object or an array.
 *
 * Unless "bounded", the last token is known to be a closing bracket.  Then
 * every token but a closing bracket has another one behind it, and the end need
 * only be looked for behind those.
 */
template <bool bounded>
static KappaJsonError
walk_container(Walk &walk, Level *levels)
{
	Level *level = levels;
	const KappaJsonNode *want = walk.paths->root;
	KappaJsonError error;
	const char *p = walk.text + *walk.token++;

open_container:
	level->node = want;
	level->start = p;
	level->is_array = (*p == '[');
	level->index = 0;
	if (!next_token<bounded>(walk, p))
		return fail(walk, p, KAPPA_JSON_UNFINISHED);
	if (*p == (level->is_array ? ']' : '}'))
		goto close_container;

next_value:
	if (level->is_array)
		want = level->node ? find_element(level->node, level->index) : nullptr;
	else
	{
		error = read_name<bounded>(walk, p, level->node, &want);
		if (error != KAPPA_JSON_OK)
			return error;
		if (!next_token<bounded>(walk, p))
			return fail(walk, p, KAPPA_JSON_UNFINISHED);
	}

	/* Of a member that occurs twice, the last counts, with all below it. */
	if (want != nullptr)
		forget_values(walk.values, want);

	if (*p == '{' || *p == '[')
	{
		if (++level == levels + KAPPA_JSON_MAX_DEPTH)
			return fail(walk, p, KAPPA_JSON_TOO_DEEP);
		goto open_container;
	}
	error = read_scalar<bounded>(walk, p, want);
	if (error != KAPPA_JSON_OK)
		return error;

value_done:
	if (!next_token<bounded>(walk, p))
		return fail(walk, p, KAPPA_JSON_UNFINISHED);
	if (*p == ',')
	{
		level->index++;
		if (!next_token<bounded>(walk, p))
			return fail(walk, p, KAPPA_JSON_UNFINISHED);
		goto next_value;
	}
	if (*p != (level->is_array ? ']' : '}'))
		return fail(walk, p, KAPPA_JSON_NO_COMMA);

close_container:
	keep_container(walk, level, p + 1);
	if (level > levels)
	{
		level--;
		if (walk.token == walk.last)
			return fail(walk, walk.end, KAPPA_JSON_UNFINISHED);
		goto value_done;
	}
	if (walk.token != walk.last)
		return fail(walk, walk.text + *walk.token, KAPPA_JSON_TRAILING);
	return KAPPA_JSON_OK;
}

/* Walk a text that is a single string, number or word. */
static KappaJsonError
walk_scalar(Walk &walk)
{
	const char *p = walk.text + *walk.token++;
	KappaJsonError error = read_scalar<true>(walk, p, walk.paths->root);

	if (error == KAPPA_JSON_OK && walk.token != walk.last)
		return fail(walk, walk.text + *walk.token, KAPPA_JSON_TRAILING);
	return error;
}

static KappaJsonError
walk_text(Walk &walk, Level *levels)
{
	char first = walk.text[walk.token[0]];
	char last = walk.text[walk.last[-1]];

	if (first != '{' && first != '[')
		return walk_scalar(walk);
	if (last == '}' || last == ']')
		return walk_container<false>(walk, levels);

	/* Certainly wrong; find out where. */
	return walk_container<true>(walk, levels);
}

/* Make the index large enough for a text of len bytes. */
static KappaJsonError
reserve_index(KappaJsonParser *parser, size_t len)
{
	const simdjson::implementation *simd = simdjson::get_active_implementation();
	size_t capacity = MIN_CAPACITY;

	if (len <= parser->capacity)
		return KAPPA_JSON_OK;

	while (capacity < len && capacity < MAX_KEPT_CAPACITY)
		capacity *= 2;
	if (capacity < len)
		capacity = len;

	/* Give the old index back first, not to hold both at once. */
	parser->stage1.reset();
	parser->capacity = 0;
	if (simd->create_dom_parser_implementation(capacity, 1, parser->stage1) !=
		simdjson::SUCCESS)
		return KAPPA_JSON_NO_MEMORY;
	parser->capacity = capacity;
	return KAPPA_JSON_OK;
}

/*
 * Where a text that stage 1 found fault with goes wrong: the first control
 * character in a string, or the quote of a string that does not end.
 */
static KappaJsonError
find_string_error(const char *text, size_t len, int64_t *position)
{
	int64_t quote = -1;

	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '"')
			quote = quote < 0 ? (int64_t) i : -1;
		else if (quote >= 0 && text[i] == '\\')
			i++;
		else if (quote >= 0 && (unsigned char) text[i] < 0x20)
		{
			*position = (int64_t) i;
			return KAPPA_JSON_CONTROL_CHARACTER;
		}
	}
	*position = quote;
	return KAPPA_JSON_UNFINISHED_STRING;
}

/* Say what stage 1 reports in our words. */
static KappaJsonError
explain_stage1(simdjson::error_code code, const char *text, size_t len,
			   int64_t *position)
{
	*position = -1;
	switch (code)
	{
		case simdjson::EMPTY:
			return KAPPA_JSON_EMPTY;
		case simdjson::UTF8_ERROR:
			return KAPPA_JSON_BAD_UTF8;
		case simdjson::UNCLOSED_STRING:
		case simdjson::UNESCAPED_CHARS:
			return find_string_error(text, len, position);
		default:
			return KAPPA_JSON_NO_MEMORY;
	}
}

static KappaJsonError
parse_text(KappaJsonParser *parser, const char *text, size_t len,
		   const KappaJsonPaths *paths, KappaJsonValue *values,
		   int64_t *position)
{
	KappaJsonError error = reserve_index(parser, len);
	simdjson::error_code code;
	uint32_t *tokens;
	uint32_t ntokens;
	Walk walk;

	*position = -1;
	if (error != KAPPA_JSON_OK)
		return error;

	code = parser->stage1->stage1((const uint8_t *) text, len,
								  simdjson::stage1_mode::regular);
	if (code != simdjson::SUCCESS)
		return explain_stage1(code, text, len, position);

	walk.text = text;
	walk.end = text + len;
	tokens = parser->stage1->structural_indexes.get();
	ntokens = parser->stage1->n_structural_indexes;
	tokens[ntokens] = (uint32_t) len;
	walk.token = tokens;
	walk.last = tokens + ntokens;
	walk.has_backslash = memchr(text, '\\', len) != nullptr;
	walk.paths = paths;
	walk.values = values;
	walk.wrong = text;

	error = walk_text(walk, parser->levels);
	if (error == KAPPA_JSON_OK)
		kappa_json_shapes_learn(paths->shapes, text, len, tokens, ntokens, values,
								paths->nslots);
	else
		*position = walk.wrong - text;
	return error;
}

KappaJsonParser *
kappa_json_parser_create(void)
{
	KappaJsonParser *parser = new (std::nothrow) KappaJsonParser;

	if (parser != nullptr)
		parser->capacity = 0;
	return parser;
}

void
kappa_json_parser_free(KappaJsonParser *parser)
{
	delete parser;
}

KappaJsonError
kappa_json_parse(KappaJsonParser *parser, const char *text, size_t len,
				 const KappaJsonPaths *paths, KappaJsonValue *values,
				 int64_t *position)
{
	KappaJsonError error;

	*position = -1;
	forget_values(values, paths->root);
	if (len == 0)
		return KAPPA_JSON_EMPTY;
	if (len > KAPPA_JSON_MAX_LENGTH)
		return KAPPA_JSON_TOO_LONG;
	if (kappa_json_shapes_match(paths->shapes, text, len, values))
		return KAPPA_JSON_OK;

	forget_values(values, paths->root);
	error = parse_text(parser, text, len, paths, values, position);
	if (error != KAPPA_JSON_OK)
		forget_values(values, paths->root);

	/* One huge text must not keep its index for ever. */
	if (parser->capacity > MAX_KEPT_CAPACITY)
	{
		parser->stage1.reset();
		parser->capacity = 0;
	}
	return error;
}
