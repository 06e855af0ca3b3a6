# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The attributes every module of this collection has. The defaults are those of a module that only reads;
    # a module that changes something overrides them in its own attributes block.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without modifying the target.
    support: full
    details:
      - This module only reads. In check mode it does exactly the same.
  diff_mode:
    description: Returns details on what has changed, or would change in check mode, when run in diff mode.
    support: N/A
    details:
      - This module does not modify the state of the target.
  idempotent:
    description:
      - When run twice in a row outside check mode with the same arguments, the second invocation indicates no change.
      - This assumes that the target has not been changed in between.
    support: full
    details:
      - This module does not modify the state of the target.
  platform:
    description: Target operating systems or families that the module can be used with.
    platforms: linux
    support: full
  facts:
    description: The module returns C(ansible_facts).
    support: full
"""

    # For a module that returns nothing under C(ansible_facts).
    NO_FACTS = r"""
options: {}
attributes:
  facts:
    support: none
"""
