import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import org.languagetool.JLanguageTool;
import org.languagetool.Language;
import org.languagetool.Languages;
import org.languagetool.ResultCache;
import org.languagetool.rules.RuleMatch;

/**
 * One text per line of standard input in, one JSON object per match of a rule out, in the order of
 * the lines. All rules that LanguageTool has on by default for the language, the only argument
 * (en-US), are run; which of them count is language_tool.py's matter.
 */
public class Check {
    static final int THREADS = 2;
    static final int SENTENCES = 50_000;

    public static void main(String[] arguments) throws Exception {
        Language language = Languages.getLanguageForShortCode(arguments[0]);
        List<String> lines = new ArrayList<>();
        try (BufferedReader in =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            in.lines().forEach(lines::add);
        }
        List<List<JsonObject>> found = new ArrayList<>();
        lines.forEach(line -> found.add(List.of()));
        // Many captions have a sentence in common.
        ResultCache cache = new ResultCache(SENTENCES);
        // A JLanguageTool may be used by one thread only.
        IntStream.range(0, THREADS).parallel().forEach(thread -> {
            JLanguageTool tool = new JLanguageTool(language, null, cache);
            for (int line = thread; line < lines.size(); line += THREADS) {
                found.set(line, check(tool, lines.get(line), line));
            }
        });
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        found.forEach(matches -> matches.forEach(out::println));
        out.flush();
    }

    static List<JsonObject> check(JLanguageTool tool, String text, int line) {
        List<JsonObject> objects = new ArrayList<>();
        try {
            for (RuleMatch match : tool.check(text)) {
                JsonObject object = new JsonObject();
                object.addProperty("line", line);
                object.addProperty("rule", match.getRule().getId());
                object.addProperty("category", match.getRule().getCategory().getId().toString());
                object.addProperty("type", match.getRule().getLocQualityIssueType().toString());
                object.addProperty("start", match.getFromPos());
                object.addProperty("end", match.getToPos());
                object.addProperty("message", match.getMessage());
                objects.add(object);
            }
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
        return objects;
    }
}
