# pg_fanout: build with PGXS.  "make && make install"; PG_CONFIG chooses the server.
MODULE_big = pg_fanout
EXTENSION = pg_fanout
DATA = $(wildcard src/sql/pg_fanout--*.sql)
PGFILEDESC = "pg_fanout - one leader, any number of followers that know how stale they are"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))

# WERROR=1 turns warnings into errors; script/test builds that way.
PG_CPPFLAGS = -I$(CURDIR)/src -I$(libpq_srcdir)
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
	-Wno-clobbered $(if $(WERROR),-Werror)
SHLIB_LINK_INTERNAL = $(libpq)

EXTRA_CLEAN = $(OBJS:.o=.d)

# Nothing here is ever inlined into a query, so there is no use for bitcode.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The compiler notes which headers a file includes: a changed one rebuilds those.
$(OBJS): override CPPFLAGS += -MMD -MP
-include $(OBJS:.o=.d)

# The version that the library belongs to is that of the control file.
VERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pg_fanout.control)
src/version.o: override CPPFLAGS += -DFANOUT_VERSION='"$(VERSION)"'
src/version.o: pg_fanout.control

# A release for PGXN, of what is committed.
dist:
	git archive --format zip --prefix=pg_fanout-$(VERSION).0/ -o pg_fanout-$(VERSION).0.zip HEAD

.PHONY: dist
