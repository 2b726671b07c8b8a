/*-------------------------------------------------------------------------
 *
 * decode_clock.c
 *	  Dates and times that would depend on when they are read
 *
 * A view must come out the same at every replay of its topic.  The words
 * "now", "today", "tomorrow" and "yesterday", which PostgreSQL's date and time
 * types understand, would make that untrue, and so would a time with time zone
 * whose zone depends on the current date.  They are errors.  To find them, and
 * not to object to the same words in text, a shape tells at which places of a
 * type a date or time can stand.
 *
 * IDENTIFICATION
 *	  src/decode_clock.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type_d.h"
#include "decode_clock.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* Where in values of a type a clock word would be understood. */
typedef enum ClockKind
{
	CLOCK_NONE,
	CLOCK_DATETIME, /* in the text of the value itself */
	CLOCK_TIMETZ,   /* likewise, and the zone must be a number */
	CLOCK_ARRAY,    /* in the elements */
	CLOCK_COMPOSITE /* in some of the fields */
} ClockKind;

struct KappaClockShape
{
	ClockKind kind;
	struct KappaClockShape *element; /* of an array */
	int nfields;                     /* of a composite */
	char **names;
	struct KappaClockShape **fields;
};

static KappaClockShape *
make_composite_shape(Oid type)
{
	TupleDesc desc = lookup_rowtype_tupdesc_copy(type, -1);
	KappaClockShape *shape = palloc0(sizeof(KappaClockShape));

	shape->names = palloc(desc->natts * sizeof(char *));
	shape->fields = palloc(desc->natts * sizeof(KappaClockShape *));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		KappaClockShape *field;

		if (att->attisdropped)
			continue;
		field = kappa_clock_create_shape(att->atttypid);
		if (field->kind == CLOCK_NONE)
			continue;
		shape->names[shape->nfields] = pstrdup(NameStr(att->attname));
		shape->fields[shape->nfields++] = field;
	}
	if (shape->nfields > 0)
		shape->kind = CLOCK_COMPOSITE;
	return shape;
}

/* Find the dates and times in a type. */
KappaClockShape *
kappa_clock_create_shape(Oid type)
{
	KappaClockShape *shape = palloc0(sizeof(KappaClockShape));
	Oid base_type = getBaseType(type);
	Oid element_type = get_element_type(base_type);

	check_stack_depth();

	if (base_type == DATEOID || base_type == TIMEOID ||
		base_type == TIMESTAMPOID || base_type == TIMESTAMPTZOID)
		shape->kind = CLOCK_DATETIME;
	else if (base_type == TIMETZOID)
		shape->kind = CLOCK_TIMETZ;
	else if (OidIsValid(element_type))
	{
		shape->element = kappa_clock_create_shape(element_type);
		if (shape->element->kind != CLOCK_NONE)
			shape->kind = CLOCK_ARRAY;
	}
	else if (type_is_rowtype(base_type))
		return make_composite_shape(base_type);
	else if (type_is_range(base_type))
		return kappa_clock_create_shape(get_range_subtype(base_type));
	else if (type_is_multirange(base_type))
		return kappa_clock_create_shape(get_multirange_range(base_type));
	return shape;
}

static inline bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/*
 * Throw if the text contains one of the words.  A word ends at anything but a
 * letter, as it does for PostgreSQL.
 */
void
kappa_clock_check_words(const char *text)
{
	static const char *const words[] = {
		"now", "today", "tomorrow", "yesterday"
	};
	const char *p = text;

	while (*p != '\0')
	{
		const char *word = p;

		while (is_letter(*p))
			p++;
		for (int i = 0; i < lengthof(words); i++)
		{
			if (p - word == strlen(words[i]) &&
				pg_strncasecmp(word, words[i], p - word) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
						 errmsg("date or time \"%s\" in a message would depend on the clock",
								words[i]),
						 errdetail("The same message must mean the same whenever it is read.")));
		}
		if (*p != '\0')
			p++;
	}
}

/* Throw unless a time with time zone gives its zone as a number, or as UTC. */
static void
check_time_zone(const char *text)
{
	const char *p = strchr(text, ':');

	while (p != NULL && *p != '\0')
	{
		const char *word = p;

		if ((*p == '+' || *p == '-') && p[1] >= '0' && p[1] <= '9')
			return;
		while (is_letter(*p))
			p++;
		if ((p - word == 1 && pg_strncasecmp(word, "z", 1) == 0) ||
			(p - word == 3 && pg_strncasecmp(word, "utc", 3) == 0) ||
			(p - word == 3 && pg_strncasecmp(word, "gmt", 3) == 0))
			return;
		if (p == word)
			p++;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
			 errmsg("time with time zone in a message would depend on the clock"),
			 errdetail("Which offset a time zone has depends on the date, and the same message must mean the same whenever it is read."),
			 errhint("Give the zone as a number, such as 04:05:06+02.")));
}

/* Check the text form of a value; of arrays and composites, all of it. */
void
kappa_clock_check_text(const KappaClockShape *shape, const char *text)
{
	if (shape->kind == CLOCK_NONE)
		return;
	kappa_clock_check_words(text);
	if (shape->kind == CLOCK_TIMETZ)
		check_time_zone(text);
}

/* The same for a part of a document, at the places where it matters. */
void
kappa_clock_check_json(const KappaClockShape *shape, const JsonbValue *value)
{
	check_stack_depth();

	if (shape->kind == CLOCK_NONE)
		return;
	if (value->type == jbvString)
		kappa_clock_check_text(shape, pnstrdup(value->val.string.val,
											   value->val.string.len));
	else if (value->type != jbvBinary)
		return;
	else if (shape->kind == CLOCK_ARRAY &&
			 JsonContainerIsArray(value->val.binary.data))
	{
		JsonbIterator *it = JsonbIteratorInit(value->val.binary.data);
		JsonbValue element;
		JsonbIteratorToken token;

		while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		{
			if (token != WJB_ELEM)
				continue;

			/* Arrays of arrays have the same type at every level. */
			if (element.type == jbvBinary &&
				JsonContainerIsArray(element.val.binary.data))
				kappa_clock_check_json(shape, &element);
			else
				kappa_clock_check_json(shape->element, &element);
		}
	}
	else if (shape->kind == CLOCK_COMPOSITE &&
			 JsonContainerIsObject(value->val.binary.data))
	{
		for (int i = 0; i < shape->nfields; i++)
		{
			JsonbValue field;

			if (getKeyJsonValueFromContainer(value->val.binary.data,
											 shape->names[i],
											 strlen(shape->names[i]), &field))
				kappa_clock_check_json(shape->fields[i], &field);
		}
	}
}
