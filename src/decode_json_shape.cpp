/*-------------------------------------------------------------------------
 *
 * decode_json_shape.cpp
 *	  What JSON texts of a topic usually look like, so as to check them faster
 *
 * A text is matched from left to right: a piece, a value, a piece, a value, up
 * to a last piece that has to be its end.  The way through the tree of pieces is
 * always one that a whole text has taken before, which the parser had accepted;
 * so its brackets and names are in order, and what remains to be checked is
 * that each value is one.
 *
 * Eight bytes are looked at at a time, in one register: that suits the short
 * strings and numbers between two names better than wider ones.
 *
 * IDENTIFICATION
 *	  src/decode_json_shape.cpp
 *
 *-------------------------------------------------------------------------
 */
#include <algorithm>
#include <cstring>

#include <simdjson.h>

extern "C"
{
#include "decode_json_shape.h"
}

/* What may stand at one place: more would have to be compared one by one. */
static const int MAX_SIBLINGS = 8;

/* Texts in a row of which nothing was learned, before most are passed by. */
static const uint32_t MAX_FRUITLESS = 8;

/* When to give up for a while, and for how many texts, at first and at most. */
static const int32_t MAX_SCORE = 256;
static const int32_t MIN_SCORE = -64;
static const uint32_t FIRST_PAUSE = 1024;
static const uint32_t MAX_PAUSE_DOUBLINGS = 10;

static const uint64_t ONES = UINT64_C(0x0101010101010101);
static const uint64_t HIGH_BITS = UINT64_C(0x8080808080808080);

/* What is needed of a text that is being matched. */
struct Text
{
	const char *end;
	KappaJsonValue *values;
};

/*
 * The eight bytes at p, the first one lowest; zero behind the end.  The text is
 * not shorter than eight bytes.
 */
static inline uint64_t
load_word(const char *p, const char *end)
{
	ptrdiff_t left = end - p;
	uint64_t word;

	if (left <= 0)
		return 0;
	memcpy(&word, left >= 8 ? p : end - 8, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	return left >= 8 ? word : word >> (8 * (8 - left));
}

/*
 * The functions below set the highest bit of a byte that is what they look
 * for.  A carry can set that of a byte above one that is, too, so only the
 * lowest counts.
 */

/* What ends a string, or is not plain in it: beyond ASCII, too. */
static inline uint64_t
find_end_of_plain(uint64_t word)
{
	uint64_t quotes = (word ^ (ONES * '"')) - ONES;
	uint64_t backslashes = (word ^ (ONES * '\\')) - ONES;
	uint64_t controls = word - ONES * 0x20;

	return (quotes | backslashes | controls | word) & HIGH_BITS;
}

static inline uint64_t
find_no_digit(uint64_t word)
{
	uint64_t digits = word ^ (ONES * '0');

	return ((digits + ONES * (0x80 - 10)) | digits) & HIGH_BITS;
}

static inline int
first_byte(uint64_t found)
{
	return __builtin_ctzll(found) / 8;
}

static inline const char *
skip_digits(const char *p, const char *end)
{
	for (;;)
	{
		uint64_t found = find_no_digit(load_word(p, end));

		if (found != 0)
			return p + first_byte(found);
		p += 8;
	}
}

/* The end of the number at p, or NULL. */
static inline const char *
match_number(const char *p, const char *end)
{
	const char *digits;

	if (*p == '-')
		p++;
	if (p < end && *p == '0')
		p++;
	else
	{
		digits = p;
		p = skip_digits(p, end);
		if (p == digits)
			return nullptr;
	}
	if (p < end && *p == '.')
	{
		digits = p + 1;
		p = skip_digits(digits, end);
		if (p == digits)
			return nullptr;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		digits = p;
		p = skip_digits(p, end);
		if (p == digits)
			return nullptr;
	}
	return p;
}

/*
 * The closing quote of a string that starts at "start" and is plain up to p, or
 * NULL if there is none or something is wrong.
 */
static const char *
match_rest_of_string(const char *start, const char *p, const char *end,
					 bool *escaped)
{
	const char *escape = nullptr;
	bool is_ascii = true;

	for (; p < end && *p != '"'; p++)
	{
		if ((unsigned char) *p < 0x20)
			return nullptr;
		if ((unsigned char) *p >= 0x80)
			is_ascii = false;
		if (*p == '\\')
		{
			if (escape == nullptr)
				escape = p;
			p++;
			if (p == end || (unsigned char) *p < 0x20 || (unsigned char) *p >= 0x80)
				return nullptr;
		}
	}
	if (p >= end || (!is_ascii && !simdjson::validate_utf8(start, p - start)))
		return nullptr;
	*escaped = escape != nullptr;
	if (escape != nullptr && kappa_json_check_escapes(&escape, p) != KAPPA_JSON_OK)
		return nullptr;
	return p;
}

/* The closing quote of the string that starts at "start", or NULL. */
static inline const char *
match_string(const char *start, const char *end, bool *escaped)
{
	const char *p = start;
	uint64_t found;

	while ((found = find_end_of_plain(load_word(p, end))) == 0)
		p += 8;
	p += first_byte(found);
	*escaped = false;
	if (p < end && *p == '"')
		return p;
	return match_rest_of_string(start, p, end, escaped);
}

/*
 * The end of true, false or null at p, or NULL.  Which of them it is, is often
 * as good as random, so there is no branch to be mispredicted.
 */
static inline const char *
match_word(const char *p, const char *end, uint8_t *kind)
{
	const uint64_t four = UINT64_C(0xffffffff);
	const uint64_t five = UINT64_C(0xffffffffff);
	uint64_t word = load_word(p, end);
	unsigned is_true = (word & four) == UINT64_C(0x65757274);
	unsigned is_null = (word & four) == UINT64_C(0x6c6c756e);
	unsigned is_false = (word & five) == UINT64_C(0x65736c6166);

	*kind = (uint8_t) (is_true * KAPPA_JSON_TRUE + is_null * KAPPA_JSON_NULL +
					   is_false * KAPPA_JSON_FALSE);
	if ((is_true | is_null | is_false) == 0)
		return nullptr;
	return p + 4 + is_false;
}

/* Read a value at p, and move p behind it; false if there is none. */
static inline bool
match_value(const char *&p, const char *end, KappaJsonValue *value)
{
	const char *value_end;

	if (p >= end)
		return false;
	value->start = p;
	value->escaped = false;
	switch (*p)
	{
		case '"':
			value->kind = KAPPA_JSON_STRING;
			value->start = p + 1;
			value_end = match_string(p + 1, end, &value->escaped);
			if (value_end == nullptr)
				return false;
			value->len = (uint32_t) (value_end - value->start);
			p = value_end + 1;
			return true;
		case 't':
		case 'f':
		case 'n':
			value_end = match_word(p, end, &value->kind);
			break;
		default:
			value->kind = KAPPA_JSON_NUMBER;
			value_end = match_number(p, end);
	}
	if (value_end == nullptr)
		return false;
	value->len = (uint32_t) (value_end - p);
	p = value_end;
	return true;
}

static inline bool
is_piece_at(const KappaJsonShapes *shapes, const KappaJsonPiece *piece,
			const char *p, const char *end)
{
	if (((load_word(p, end) ^ piece->word[0]) & piece->mask[0]) != 0)
		return false;
	if (piece->len <= 8)
		return true;
	if (((load_word(p + 8, end) ^ piece->word[1]) & piece->mask[1]) != 0)
		return false;
	return piece->len <= 16 ||
		   (end - p >= piece->len &&
			memcmp(p + 16, shapes->bytes + piece->bytes + 16, piece->len - 16) == 0);
}

static void
set_containers(const KappaJsonShapes *shapes, const KappaJsonPiece *piece,
			   const char *p, KappaJsonValue *values)
{
	for (int i = 0; i < piece->nmarks; i++)
	{
		const KappaJsonMark *mark = &shapes->marks[piece->first_mark + i];
		KappaJsonValue *value = &values[mark->slot];

		if (mark->ends)
			value->len = (uint32_t) (p + mark->offset + 1 - value->start);
		else
		{
			value->start = p + mark->offset;
			value->kind = mark->kind;
			value->escaped = false;
		}
	}
}

static bool
match_text(const KappaJsonShapes *shapes, const char *p, const char *end,
		   KappaJsonValue *values)
{
	int next = shapes->first;

	for (;;)
	{
		const KappaJsonPiece *piece;
		KappaJsonValue value;
		const char *behind;

		for (;; next = piece->sibling)
		{
			if (next == 0)
				return false;
			piece = &shapes->pieces[next];
			if (!is_piece_at(shapes, piece, p, end))
				continue;
			behind = p + piece->len;
			if (piece->is_last ? behind == end : match_value(behind, end, &value))
				break;
		}

		if (piece->nmarks > 0)
			set_containers(shapes, piece, p, values);
		if (piece->is_last)
			return true;
		if (piece->slot >= 0)
			values[piece->slot] = value;
		next = piece->next;
		p = behind;
	}
}

static void
forget_all(KappaJsonShapes *shapes)
{
	shapes->first = 0;
	shapes->npieces = 0;
	shapes->nmarks = 0;
	shapes->nbytes = 0;
	shapes->fruitless = 0;
	shapes->score = 0;
}

bool
kappa_json_shapes_match(KappaJsonShapes *shapes, const char *text, size_t len,
						KappaJsonValue *values)
{
	if (shapes->pause > 0)
	{
		shapes->pause--;
		return false;
	}
	if (len >= 8 && match_text(shapes, text, text + len, values))
	{
		if (shapes->score < MAX_SCORE)
			shapes->score++;
		else
			shapes->npauses = 0;
		return true;
	}
	if (--shapes->score < MIN_SCORE)
	{
		forget_all(shapes);
		shapes->pause = FIRST_PAUSE << std::min(shapes->npauses, MAX_PAUSE_DOUBLINGS);
		shapes->npauses++;
	}
	return false;
}

/* ---- learning ---- */

/* A piece of the text that is being learned. */
struct NewPiece
{
	const char *start;
	size_t len;
	int slot;
	bool is_last;
	int nmarks;
	KappaJsonMark marks[KAPPA_JSON_MAX_MARKS];
};

static bool
is_container(const KappaJsonValue *value)
{
	return value->kind == KAPPA_JSON_ARRAY || value->kind == KAPPA_JSON_OBJECT;
}

static bool
add_mark(NewPiece *piece, const char *bracket, int slot, uint8_t kind, bool ends)
{
	KappaJsonMark *mark;

	if (bracket < piece->start || bracket >= piece->start + piece->len)
		return true;
	if (piece->nmarks == KAPPA_JSON_MAX_MARKS)
		return false;
	mark = &piece->marks[piece->nmarks++];
	mark->offset = (uint16_t) (bracket - piece->start);
	mark->slot = (int16_t) slot;
	mark->kind = kind;
	mark->ends = ends;
	return true;
}

/* What is wanted of the piece and of the value behind it; false: too much. */
static bool
find_slots(NewPiece *piece, const KappaJsonValue *values, int nslots)
{
	const char *next = piece->start + piece->len;

	piece->slot = -1;
	piece->nmarks = 0;
	for (int i = 0; i < nslots; i++)
	{
		const KappaJsonValue *value = &values[i];

		if (value->kind == KAPPA_JSON_MISSING)
			continue;
		if (is_container(value))
		{
			if (!add_mark(piece, value->start, i, value->kind, false) ||
				!add_mark(piece, value->start + value->len - 1, i, value->kind, true))
				return false;
		}
		else if (!piece->is_last &&
				 value->start == next + (value->kind == KAPPA_JSON_STRING ? 1 : 0))
			piece->slot = i;
	}
	return true;
}

static bool
has_bytes_of(const KappaJsonShapes *shapes, const KappaJsonPiece *piece,
			 const NewPiece *other)
{
	return piece->len == other->len && piece->is_last == other->is_last &&
		   memcmp(shapes->bytes + piece->bytes, other->start, other->len) == 0;
}

static bool
has_slots_of(const KappaJsonShapes *shapes, const KappaJsonPiece *piece,
			 const NewPiece *other)
{
	if (piece->slot != other->slot || piece->nmarks != other->nmarks)
		return false;
	for (int i = 0; i < piece->nmarks; i++)
	{
		const KappaJsonMark *mark = &shapes->marks[piece->first_mark + i];

		if (mark->offset != other->marks[i].offset || mark->slot != other->marks[i].slot ||
			mark->ends != other->marks[i].ends)
			return false;
	}
	return true;
}

/* Make a piece of the table; 0 if there is no room. */
static int
create_piece(KappaJsonShapes *shapes, const NewPiece *from)
{
	KappaJsonPiece *piece;
	char start[16] = {};

	if (shapes->npieces + 1 >= KAPPA_JSON_MAX_PIECES ||
		from->nmarks > KAPPA_JSON_MAX_MARKS - shapes->nmarks ||
		from->len > (size_t) (KAPPA_JSON_SHAPE_BYTES - shapes->nbytes))
		return 0;

	piece = &shapes->pieces[++shapes->npieces];
	memset(piece, 0, sizeof(KappaJsonPiece));
	piece->len = (uint16_t) from->len;
	piece->bytes = shapes->nbytes;
	piece->slot = (int16_t) from->slot;
	piece->first_mark = (uint8_t) shapes->nmarks;
	piece->nmarks = (uint8_t) from->nmarks;
	piece->is_last = from->is_last;

	memcpy(start, from->start, std::min(from->len, sizeof(start)));
	for (int i = 0; i < 2; i++)
	{
		int nbytes = std::min(std::max((int) from->len - 8 * i, 0), 8);

		piece->word[i] = load_word(start + 8 * i, start + 8 * i + 8);
		piece->mask[i] = nbytes == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (8 * nbytes)) - 1;
	}
	memcpy(shapes->bytes + shapes->nbytes, from->start, from->len);
	memcpy(shapes->marks + shapes->nmarks, from->marks,
		   from->nmarks * sizeof(KappaJsonMark));
	shapes->nbytes = (uint16_t) (shapes->nbytes + from->len);
	shapes->nmarks = (uint16_t) (shapes->nmarks + from->nmarks);
	return shapes->npieces;
}

/*
 * The piece of a list that is like another one, or a new one in it; NULL if
 * there is no room.  Of two members with the same name only the last counts, so
 * the same bytes may be wanted in one text and not in another: such texts are
 * not learned.
 */
static KappaJsonPiece *
find_or_add_piece(KappaJsonShapes *shapes, uint16_t *link, const NewPiece *wanted)
{
	for (int i = 0; i < MAX_SIBLINGS; i++)
	{
		KappaJsonPiece *piece;

		if (*link == 0)
		{
			*link = (uint16_t) create_piece(shapes, wanted);
			return *link != 0 ? &shapes->pieces[*link] : nullptr;
		}
		piece = &shapes->pieces[*link];
		if (has_bytes_of(shapes, piece, wanted))
			return has_slots_of(shapes, piece, wanted) ? piece : nullptr;
		link = &piece->sibling;
	}
	return nullptr;
}

/* Where a value ends behind which the next token is at "end". */
static const char *
find_value_end(const char *end)
{
	while (end[-1] == ' ' || end[-1] == '\n' || end[-1] == '\t' || end[-1] == '\r')
		end--;
	return end;
}

static bool
is_structural(char c)
{
	return c == '{' || c == '}' || c == '[' || c == ']' || c == ':' || c == ',';
}

static void
learn_text(KappaJsonShapes *shapes, const char *text, size_t len,
		   const uint32_t *tokens, uint32_t ntokens,
		   const KappaJsonValue *values, int nslots)
{
	uint16_t *link = &shapes->first;
	KappaJsonPiece *piece;
	NewPiece next;

	next.start = text;
	next.is_last = false;
	for (uint32_t i = 0; i < ntokens; i++)
	{
		const char *p = text + tokens[i];
		const char *behind = text + tokens[i + 1];

		/* Brackets and the like, and names, belong to the piece. */
		if (is_structural(*p) || *behind == ':')
			continue;
		next.len = p - next.start;
		piece = find_slots(&next, values, nslots)
					? find_or_add_piece(shapes, link, &next)
					: nullptr;
		if (piece == nullptr)
			return;
		link = &piece->next;
		next.start = find_value_end(behind);
	}

	next.len = text + len - next.start;
	next.is_last = true;
	if (find_slots(&next, values, nslots))
		(void) find_or_add_piece(shapes, link, &next);
}

void
kappa_json_shapes_learn(KappaJsonShapes *shapes, const char *text, size_t len,
						const uint32_t *tokens, uint32_t ntokens,
						const KappaJsonValue *values, int nslots)
{
	uint16_t npieces = shapes->npieces;

	/* A single value has no piece in front of it. */
	if (shapes->pause > 0 || ntokens < 2 || len < 8 ||
		(shapes->fruitless >= MAX_FRUITLESS && ++shapes->fruitless % 16 != 0))
		return;

	learn_text(shapes, text, len, tokens, ntokens, values, nslots);
	if (shapes->npieces > npieces)
		shapes->fruitless = 0;
	else
		shapes->fruitless++;
}
