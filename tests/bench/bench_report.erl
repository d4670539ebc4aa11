%% @doc The results as a table on standard output, as JSON and as a chart.
-module(bench_report).

-export([write/3]).

-type result() :: {module(), [bench:row() | bench:skipped()] | bench:skipped()}.

%% @doc Prints the table and writes `bench.json' and `bench.svg' into a folder.
-spec write(file:filename(), bench:options(), [result()]) -> ok.
write(Dir, Options, Results) ->
    Each = [{Module, Result} || {Module, All} <- Results, Result <- lists:flatten([All])],
    Rows = [Row || {_, #{} = Row} <- Each],
    Skipped = [{Module, Reason} || {Module, {skip, Reason}} <- Each],
    io:format("~n~ts~n", [table(Rows)]),
    _ = [io:format("NOT RUN ~s: ~ts~n", [Module, Reason]) || {Module, Reason} <- Skipped],
    ok = file:write_file(filename:join(Dir, "bench.json"),
                         unicode:characters_to_binary([json(Options, Rows, Skipped), $\n])),
    ok = file:write_file(filename:join(Dir, "bench.svg"),
                         unicode:characters_to_binary(svg(Rows))),
    io:format("written: ~ts/bench.json, ~ts/bench.svg~n", [Dir, Dir]).

%% Ours divided by theirs, whichever is better.
ratio(#{ours := Ours, theirs := Theirs}) ->
    case bench:median(Theirs) of
        Zero when Zero == 0 -> undefined;
        Theirs1 -> bench:median(Ours) / Theirs1
    end.

table(Rows) ->
    Head = ["what", "unit", "this gateway", "alternative", "ratio", "target", ""],
    Lines = [Head | [line(Row) || Row <- Rows]],
    Widths = [lists:max([string:length(Cell) || Cell <- Column]) || Column <- columns(Lines)],
    lists:join($\n, [padded(Line, Widths) || Line <- Lines]).

line(#{what := What, unit := Unit, ours := Ours, theirs := Theirs} = Row) ->
    [flat(What), Unit, number(bench:median(Ours)),
     number(bench:median(Theirs)) ++ " " ++ maps:get(against, Row),
     case ratio(Row) of undefined -> "-"; Ratio -> flat(io_lib:format("~.2f", [Ratio])) end,
     target(Row), verdict(Row)].

target(#{better := Better} = Row) ->
    Sign = case Better of more -> ">= "; less -> "<= " end,
    Ratio = [Sign ++ io_lib:format("~.2f", [T * 1.0]) || #{target := T} <- [Row]],
    Limit = [Sign ++ number(L) ++ " " ++ maps:get(unit, Row) || #{limit := L} <- [Row]],
    flat(lists:join(", ", Ratio ++ Limit)).

verdict(#{ours := Ours} = Row) ->
    Missed = [missed || #{target := Target} <- [Row], not reached(ratio(Row), Target, Row)]
        ++ [missed || #{limit := Limit} <- [Row], not reached(bench:median(Ours), Limit, Row)],
    flat(lists:join(" ", ["MISSED" || Missed =/= []] ++ [maps:get(note, Row, "")])).

reached(undefined, _, _) -> true;
reached(Value, Target, #{better := more}) -> Value >= Target;
reached(Value, Target, #{better := less}) -> Value =< Target.

columns([[] | _]) -> [];
columns(Lines) -> [[hd(Line) || Line <- Lines] | columns([tl(Line) || Line <- Lines])].

padded(Line, Widths) ->
    string:trim(
        flat(lists:join("  ", [string:pad(Cell, Width) || {Cell, Width} <- lists:zip(Line, Widths)])),
        trailing).

number(N) when N < 0 -> [$- | number(-N)];
number(N) when N >= 1000 -> integer_to_list(round(N));
number(N) when N >= 10 -> flat(io_lib:format("~.1f", [N * 1.0]));
number(N) -> flat(io_lib:format("~.3f", [N * 1.0])).

flat(Text) -> unicode:characters_to_list(Text).

json(#{rounds := Rounds, milliseconds := Milliseconds}, Rows, Skipped) ->
    object([
        {"otp", string(erlang:system_info(otp_release))},
        {"cores", integer_to_list(erlang:system_info(logical_processors_available))},
        {"rounds", integer_to_list(Rounds)},
        {"milliseconds", integer_to_list(Milliseconds)},
        {"rows", list([json_row(Row) || Row <- Rows])},
        {"not_run", list([object([{"name", string(atom_to_list(Module))},
                                  {"reason", string(Reason)}]) || {Module, Reason} <- Skipped])}
    ]).

json_row(#{what := What, unit := Unit, better := Better, against := Against} = Row) ->
    #{ours := Ours, theirs := Theirs} = Row,
    object([
        {"what", string(What)}, {"unit", string(Unit)},
        {"better", string(atom_to_list(Better))}, {"against", string(Against)},
        {"ours", list([json_number(N) || N <- Ours])},
        {"theirs", list([json_number(N) || N <- Theirs])},
        {"ratio", case ratio(Row) of undefined -> "null"; Ratio -> json_number(Ratio) end},
        {"target", case Row of #{target := Target} -> json_number(Target); _ -> "null" end},
        {"limit", case Row of #{limit := Limit} -> json_number(Limit); _ -> "null" end},
        {"note", string(maps:get(note, Row, ""))}
    ]).

json_number(N) when is_integer(N) -> integer_to_list(N);
json_number(N) -> float_to_list(N, [{decimals, 6}, compact]).

object(Members) ->
    ["{", lists:join(",", [[string(Key), ":", Value] || {Key, Value} <- Members]), "}"].

list(Values) -> ["[", lists:join(",", Values), "]"].

string(Text) -> [$", [escaped(C) || C <- flat(Text)], $"].

escaped($") -> "\\\"";
escaped($\\) -> "\\\\";
escaped(C) when C < 32 -> io_lib:format("\\u~4.16.0b", [C]);
escaped(C) -> C.

%% A bar per row: how many times better than the alternative, on a logarithmic scale from a
%% sixteenth to sixteen times.
svg(Rows) ->
    Height = 60 + 22 * length(Rows),
    [io_lib:format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"~b\" "
                   "font-family=\"sans-serif\" font-size=\"12\">~n"
                   "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>~n"
                   "<text x=\"10\" y=\"20\" font-size=\"14\">Times better than the alternative "
                   "(logarithmic)</text>~n", [Height]),
     [grid(Times, Height) || Times <- [1 / 16, 1 / 4, 1, 4, 16]],
     [bar(N, Row) || {N, Row} <- lists:zip(lists:seq(1, length(Rows)), Rows)],
     "</svg>\n"].

x(Times) -> 640 + 60 * math:log2(max(1 / 24, min(24, Times))).

grid(Times, Height) ->
    io_lib:format("<line x1=\"~.1f\" x2=\"~.1f\" y1=\"44\" y2=\"~b\" stroke=\"~s\"/>"
                  "<text x=\"~.1f\" y=\"38\" text-anchor=\"middle\">~s</text>~n",
                  [x(Times), x(Times), Height - 8, if Times == 1 -> "black"; true -> "#ccc" end,
                   x(Times), if Times < 1 -> "1/" ++ integer_to_list(round(1 / Times));
                                true -> integer_to_list(round(Times)) end]).

bar(N, Row) ->
    Y = 36 + 22 * N,
    Times = case {ratio(Row), Row} of
        {Ratio, #{better := more}} when is_float(Ratio), Ratio > 0 -> Ratio;
        {Ratio, #{better := less}} when is_float(Ratio), Ratio > 0 -> 1 / Ratio;
        _ -> 1
    end,
    {From, To} = {min(x(1), x(Times)), max(x(1), x(Times))},
    Color = if Times >= 1 -> "#2a7"; true -> "#c53" end,
    io_lib:format("<text x=\"10\" y=\"~b\">~ts</text><rect x=\"~.1f\" y=\"~b\" width=\"~.1f\" "
                  "height=\"14\" fill=\"~s\"/><text x=\"950\" y=\"~b\" text-anchor=\"end\">~.2f"
                  "</text>~n",
                  [Y, xml(maps:get(what, Row)), From, Y - 11, To - From, Color, Y, Times * 1.0]).

xml(Text) ->
    [case C of $< -> "&lt;"; $& -> "&amp;"; _ -> C end || C <- flat(Text)].
