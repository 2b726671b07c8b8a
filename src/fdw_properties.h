/*-------------------------------------------------------------------------
 *
 * fdw_properties.h
 *	  The list of options, and who may set which where
 *
 * IDENTIFICATION
 *	  src/fdw_properties.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_PROPERTIES_H
#define KAPPA_FDW_PROPERTIES_H

#include "c.h"

/* Places where an option may stand; a set of bits. */
#define KAPPA_ON_SERVER (1 << 0)
#define KAPPA_ON_MAPPING (1 << 1)
#define KAPPA_ON_TABLE (1 << 2)
#define KAPPA_ON_COLUMN (1 << 3)

typedef enum KappaPropertyClass
{
	KAPPA_PROPERTY_OWN,        /* kappa's option, not librdkafka's */
	KAPPA_PROPERTY_CONNECTION, /* of librdkafka, for whoever owns the object */
	KAPPA_PROPERTY_SECRET,     /* of librdkafka, never shown */
	KAPPA_PROPERTY_IDENTITY,   /* names a file of the server or uses its identity */
	KAPPA_PROPERTY_CODE,       /* loads code or runs a command: refused */
	KAPPA_PROPERTY_MANAGED,    /* kappa decides its value: refused */
	KAPPA_PROPERTY_PRODUCER,   /* means nothing to a consumer: refused */
} KappaPropertyClass;

typedef struct KappaProperty
{
	const char *option; /* as in OPTIONS (...) */
	KappaPropertyClass kind;
	int places;       /* where it may stand; 0 if it is refused */
	const char *hint; /* for the refused ones, or NULL */
} KappaProperty;

/* NULL if there is no such option. */
extern const KappaProperty *kappa_properties_find(const char *option);

/* The most similar name that may stand in this place, or NULL. */
extern const char *kappa_properties_closest(const char *option, int place);

/* librdkafka's name for an option; palloc'd. */
extern char *kappa_properties_librdkafka_name(const char *option);

#endif /* KAPPA_FDW_PROPERTIES_H */
