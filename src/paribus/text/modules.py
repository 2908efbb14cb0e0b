"""The embedded corpus: standard-library modules that Python 3.11, 3.12 and 3.13 all have.

Left out: tests (many installations lack them), the tables of character encodings (near-copies of
one another would stand in two splits) and files below 1 KB.  The list is fixed: a change of it
changes the corpus of every study that names no other.
"""

from __future__ import annotations

_MODULES = {
    "": (
        "__future__ _aix_support _collections_abc _compat_pickle _compression _markupbase "
        "_osx_support _py_abc _pydecimal _pyio _sitebuiltins _strptime "
        "_threading_local _weakrefset abc argparse ast "
        "base64 bdb bisect bz2 cProfile calendar cmd code codecs codeop colorsys compileall "
        "configparser contextlib copy copyreg csv dataclasses difflib dis doctest enum filecmp "
        "fileinput fnmatch fractions ftplib functools genericpath getopt getpass gettext glob "
        "graphlib gzip hashlib heapq hmac imaplib inspect io ipaddress keyword linecache locale "
        "lzma mailbox mimetypes modulefinder netrc ntpath nturl2path numbers opcode operator "
        "optparse os pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint "
        "profile pstats pty py_compile pyclbr pydoc queue quopri random reprlib rlcompleter runpy "
        "sched secrets selectors shelve shlex shutil signal site smtplib socket socketserver ssl "
        "stat statistics string stringprep subprocess symtable tabnanny tarfile tempfile textwrap "
        "threading timeit token tokenize trace traceback tracemalloc turtle types typing uuid "
        "warnings wave weakref webbrowser zipapp zipimport"
    ),
    "asyncio": (
        "__init__ __main__ base_events base_futures base_subprocess base_tasks constants "
        "coroutines events exceptions format_helpers futures locks proactor_events protocols "
        "queues runners selector_events sslproto staggered streams subprocess taskgroups tasks "
        "timeouts transports trsock unix_events windows_events windows_utils"
    ),
    "collections": "__init__",
    "concurrent/futures": "__init__ _base process thread",
    "ctypes": "__init__ _aix _endian util wintypes",
    "curses": "__init__ ascii has_key textpad",
    "dbm": "__init__ dumb",
    "email": (
        "__init__ _encoded_words _header_value_parser _parseaddr _policybase base64mime charset "
        "contentmanager encoders errors feedparser generator header headerregistry iterators "
        "message parser policy quoprimime utils"
    ),
    "email/mime": "application audio image message multipart text",
    "html": "__init__ entities parser",
    "http": "__init__ client cookiejar cookies server",
    "idlelib": (
        "autocomplete autocomplete_w autoexpand browser calltip calltip_w codecontext colorizer "
        "config config_key configdialog debugger debugger_r debugobj debugobj_r delegator "
        "dynoption editor filelist format grep help help_about history hyperparser iomenu macosx "
        "mainmenu multicall outwin parenmatch pathbrowser percolator pyparse pyshell query "
        "redirector replace rpc run runscript scrolledlist search searchbase searchengine sidebar "
        "squeezer stackviewer statusbar textview tooltip tree undo window zoomheight zzdummy"
    ),
    "importlib": "__init__ _abc _bootstrap _bootstrap_external abc util",
    "importlib/metadata": "__init__ _adapters _functools _itertools _meta _text",
    "importlib/resources": "_adapters _common abc readers simple",
    "json": "__init__ decoder encoder scanner tool",
    "logging": "__init__ config handlers",
    "multiprocessing": (
        "connection context forkserver heap managers pool popen_fork popen_forkserver "
        "popen_spawn_posix popen_spawn_win32 process queues reduction resource_sharer "
        "resource_tracker shared_memory sharedctypes spawn synchronize util"
    ),
    "multiprocessing/dummy": "__init__ connection",
    "pydoc_data": "topics",
    "re": "__init__ _casefix _compiler _constants _parser",
    "sqlite3": "__init__ dbapi2 dump",
    "tkinter": (
        "__init__ colorchooser commondialog constants dialog dnd filedialog font messagebox "
        "scrolledtext simpledialog ttk"
    ),
    "tomllib": "_parser _re",
    "turtledemo": (
        "__main__ bytedesign clock colormixer forest fractalcurves lindenmayer minimal_hanoi nim "
        "paint peace penrose planet_and_moon rosette round_dance sorting_animate tree "
        "two_canvases"
    ),
    "unittest": "__init__ _log async_case case loader main mock result runner signals suite util",
    "urllib": "error parse request response robotparser",
    "venv": "__init__",
    "wsgiref": "handlers headers simple_server types util validate",
    "xml/dom": "__init__ domreg expatbuilder minicompat minidom pulldom xmlbuilder",
    "xml/etree": "ElementInclude ElementPath ElementTree __init__",
    "xml/sax": "__init__ _exceptions expatreader handler saxutils xmlreader",
    "xmlrpc": "client server",
    "zoneinfo": "_common _tzpath _zoneinfo",
}

MODULES = tuple(
    f"{folder}/{name}.py" if folder else f"{name}.py"
    for folder, names in _MODULES.items()
    for name in names.split()
)
