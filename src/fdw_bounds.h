/*-------------------------------------------------------------------------
 *
 * fdw_bounds.h
 *	  Offset bounds that this process has bound to foreign tables
 *
 * How to bind and unbind them is in fdw_scan.h, for the rest of kappa.
 *
 * IDENTIFICATION
 *	  src/fdw_bounds.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_BOUNDS_H
#define KAPPA_FDW_BOUNDS_H

#include "fdw_ranges.h"

/* The bounds of a table, as a log; throws 55000 if there are none. */
extern const KappaLog *kappa_bounds_get(Oid relid);

#endif /* KAPPA_FDW_BOUNDS_H */
