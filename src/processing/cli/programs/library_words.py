# Shown as it is, in the introduction's style, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
import keyword, os, re, sysconfig
from collections import Counter
from processing import Pool

TEXTS = '.py .txt .rst .md .c .h .html .xml .json .toml .cfg .sh .bat .def'.split()
NOT_CODE = re.compile(r'''("""|\'\'\')(?:\\.|.)*?\1|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|#[^\n]*''', re.DOTALL)

def texts_of_the_library():
    for folder, folders, files in os.walk(sysconfig.get_paths()['stdlib']):
        folders[:] = set(folders) - {'site-packages', 'dist-packages', '__pycache__'}
        for file in files:
            if os.path.splitext(file)[1] in TEXTS:
                yield os.path.join(folder, file)

def count(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        text = file.read()
    words, names = Counter(re.findall(r'\w+', text)), Counter()
    if path.endswith('.py'):
        code = NOT_CODE.sub(' ', text)          # strings and comments are no identifiers
        names.update(name for name in re.findall(r'\b[^\W\d]\w*', code) if not keyword.iskeyword(name))
    return words, names

if __name__ == '__main__':
    paths = list(texts_of_the_library())
    words, names = Counter(), Counter()
    bar = dict(unit='files', leave=False, disable=None)         # tqdm's: only in a terminal
    with Pool() as pool:
        for some_words, some_names in pool.imap_unordered(count, paths, progress=bar):
            words.update(some_words)
            names.update(some_names)
    print(f'{words.total():,} words, {len(words):,} of them different, in {len(paths):,} files')
    print(f'\n{"identifier":<12} {"times":>9}')
    for name, times in names.most_common(10):
        print(f'{name:<12} {times:>9,}')
