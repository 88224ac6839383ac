from __future__ import annotations

import pytest

from vitune.data import open_samples, open_source
from vitune.errors import ConfigError, DataError


@pytest.fixture
def table(tmp_path, save):
    def write(text: str, name: str = "labels.csv"):
        for number in range(8):
            save(tmp_path / "img" / f"{number}.png")
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


ROWS = "".join(f"img/{i}.png,{'ant' if i % 2 else 'bee'}\n" for i in range(8))


def test_without_a_split_column_validation_is_held_out(table):
    source = open_source(table("path,label\n" + ROWS), val_fraction=0.25)
    assert source.kind == "table"
    assert source.class_names == ("ant", "bee")
    assert source.describe()["sizes"] == {"train": 6, "val": 2}


def test_split_column(table):
    words = ["train", "Train", "train", "training", "valid", "dev", "test", "test"]
    rows = [f"{row},{word}" for row, word in zip(ROWS.splitlines(), words, strict=True)]
    source = open_source(table("image,class,split\n" + "\n".join(rows)))
    assert source.describe()["sizes"] == {"train": 4, "val": 2, "test": 2}
    assert source.split("val").name(1) == "img/5.png"
    assert source.split("val").labels == [1, 0]


def test_named_columns_quotes_and_byte_order_mark(table, save):
    path = table("")
    save(path.parent / "a, b.png")
    path.write_text('\ufeffphoto,species,path\n"a, b.png",ant,x\nimg/1.png,bee,y\n', encoding="utf-8")
    source = open_source(path, image_column="photo", label_column="species", val_fraction=0)
    assert [source.split("train").name(i) for i in range(2)] == ["a, b.png", "img/1.png"]
    assert source.split("val") is None


def test_tab_separated(table):
    source = open_source(table("path\tlabel\n" + ROWS.replace(",", "\t"), "labels.TSV"))
    assert source.class_names == ("ant", "bee")


def test_absolute_paths(table):
    path = table("")
    rows = "".join(f"{path.parent}/img/{i}.png,{i % 2}\n" for i in range(8))
    path.write_text("path,label\n" + rows)
    assert open_source(path).split("train").image(0).size == (12, 10)


def test_integer_labels_sort_by_value_or_name_lines_of_classes_txt(table):
    path = table("path,label\n" + "".join(f"img/{i}.png,{(2, 10)[i % 2]}\n" for i in range(8)))
    assert open_source(path).class_names == ("2", "10")
    (path.parent / "classes.txt").write_text("".join(f"c{i}\n" for i in range(11)))
    source = open_source(path)
    assert source.class_names[10] == "c10"
    assert sorted(set(source.split("train").labels)) == [2, 10]
    (path.parent / "classes.txt").write_text("c0\nc1\nc2\n")
    with pytest.raises(DataError, match=r"labels\.csv', line 3: label 10 is out of range; .* 0\.\.2"):
        open_source(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line must name the columns"),
        ("path,label\n", "has no rows below its header"),
        (
            "file,color\nimg/0.png,1\n",
            "has no column of labels: tried label, .* found file, color; name it with label_column",
        ),
        (
            "name,label\nimg/0.png,1\n",
            "has no column of image paths: tried image, .* name it with image_column",
        ),
        ("path,label\nimg/0.png,ant\nimg/1.png,\n", "line 3 has no label; fill it"),
        ("path,label\nimg/0.png,ant\nimg/1.png\n", "line 3 has no label; fill it"),
        ("path,label\n,ant\n", "line 2 has no image path; fill it"),
        ("path,label\nimg/none.png,ant\n", r"line 2: there is no file 'img/none\.png' in"),
        ("path,label,split\nimg/0.png,ant,trian\n", "line 2 has the split 'trian'; known are train, val"),
        ("path,label,split\nimg/0.png,ant,\n", "line 2 has the split ''; known are"),
        ('path,label\n"img/0.png,ant\n', "is not a readable CSV file: unexpected end of data"),
        ("path,label\nimg/0.png,ant\nimg/1.png,ant\n", "have one class only .'ant'.; two are needed"),
        ("path,label,split\nimg/0.png,a,val\nimg/1.png,b,val\n", "has no training split, only val"),
        (
            "path,label,split\nimg/0.png,a,train\nimg/1.png,b,train\nimg/2.png,a,val\nimg/3.png,c,test\n",
            r"test split has the class 'c' \('.*', line 5\), which is not among the classes of the",
        ),
    ],
)
def test_bad_table(table, text, message):
    with pytest.raises(DataError, match=message):
        open_source(table(text))


def test_missing_named_column_lists_the_others(table):
    path = table("path,label\n" + ROWS)
    with pytest.raises(
        DataError, match=r"no column 'lable' \(label_column\); its columns are path, label. Did you mean"
    ):
        open_source(path, label_column="lable")


def test_not_utf8(table):
    path = table("")
    path.write_bytes(b"path,label\nimg/0.png,\xe9t\xe9\n")
    with pytest.raises(DataError, match=r"labels\.csv' is not UTF-8 text"):
        open_source(path)


def test_column_for_a_folder_is_refused(tmp_path, class_folders):
    class_folders(tmp_path)
    with pytest.raises(ConfigError, match=r"image_column is 'path', but .* is not a table; leave it out"):
        open_source(tmp_path, image_column="path")


def test_folder_of_tables_asks_for_one(table):
    path = table("path,label\n" + ROWS)
    for image in (path.parent / "img").iterdir():
        image.unlink()
    (path.parent / "img").rmdir()
    with pytest.raises(DataError, match=r"holds no class folders but tables; give the table: labels\.csv"):
        open_source(path.parent)


def test_broken_image_is_named_with_its_line(table):
    path = table("path,label\n" + ROWS)
    (path.parent / "img" / "3.png").write_text("text")
    samples = open_samples(path, ("ant", "bee"))
    with pytest.raises(DataError, match=r"3\.png' \('.*labels\.csv', line 5\) cannot be read"):
        samples.image(3)
