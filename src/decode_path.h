/*-------------------------------------------------------------------------
 *
 * decode_path.h
 *	  Paths of columns, compiled for the JSON parser
 *
 * IDENTIFICATION
 *	  src/decode_path.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_PATH_H
#define KAPPA_DECODE_PATH_H

#include "decode_json.h"
#include "fdw_options.h"
#include "nodes/pg_list.h"

/*
 * Compile the paths of some columns (a List of const KappaColumn *) into one
 * tree.  slots[i] is set to the slot of the i-th column; columns with the same
 * path share one.  An empty list gives a tree that wants nothing.  The result
 * and all it points to is palloc'd in CurrentMemoryContext.
 */
extern KappaJsonPaths *kappa_path_compile(List *columns, int *slots);

#endif /* KAPPA_DECODE_PATH_H */
